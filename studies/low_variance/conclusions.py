"""What the study of two objectives says: the interval of the ratio beside 1 and beside the paper's, and what Holm's correction leaves."""

import math

from arche_mdlm.studies.engine.markdown import interval_cell, number
from arche_mdlm.studies.engine.readings.decisions import Comparison, decide, note, over_seeds

PAPER_RATIO = 0.88  # of FLOPs, low_variance over nelbo: "about 12 % fewer" (arXiv 2602.15014)
RATIO, PAPER, DIFFERENCE = "ratio against 1", "ratio against the paper's", "last bounds"


def comparisons(report: dict) -> dict[str, Comparison]:
    """All that is looked at, over the seeds whose start is past the plateau; empty without one."""
    if "log_ratio" not in report:
        return {}
    ratio, seeds = report["log_ratio"], len(_counted(report))
    return {
        RATIO: over_seeds(ratio, seeds),
        PAPER: over_seeds(_less(ratio, math.log(PAPER_RATIO)), seeds),
        DIFFERENCE: over_seeds(report["difference"], seeds),
    }


def sentences(report: dict) -> list[str]:
    """What is decided, where the interval of the ratio lies, and how many comparisons that took."""
    signs = decide(comparisons(report))
    if not signs or report["log_ratio"]["low"] is None:
        return []
    return [*decided_sentences(report), _where(report, signs), note(signs)]


def decided_sentences(report: dict) -> list[str]:
    """One a comparison; empty where nothing is decided."""
    signs = decide(comparisons(report))
    lines = []
    if sign := signs.get(RATIO):
        lines.append(f"`low_variance` needs {'fewer' if sign < 0 else 'more'} FLOPs than `nelbo` to an equal bound: "
                     f"{ratio_cell(report['log_ratio'])} times as many.")  # fmt: skip
    if sign := signs.get(PAPER):
        lines.append(f"The paper's ratio of {PAPER_RATIO} does not hold here: ours is {'lower' if sign < 0 else 'higher'}, "
                     f"{ratio_cell(report['log_ratio'])}.")  # fmt: skip
    if sign := signs.get(DIFFERENCE):
        lines.append(f"After as many steps `low_variance` ends at a {'lower' if sign < 0 else 'higher'} bound than `nelbo`: "
                     f"{interval_cell(report['difference'], '+.4f')} nats a token.")  # fmt: skip
    return lines


def ratio_cell(log_ratio: dict) -> str:
    """A ratio with its interval, of the interval of its logarithm."""
    known = [None if log_ratio[key] is None else math.exp(log_ratio[key]) for key in ("estimate", "low", "high")]
    return number(known[0], ".3f", known[1:])


def _where(report: dict, signs: dict[str, int]) -> str:
    """A fact of the interval: whether 1 and the paper's ratio are in it."""
    own, said = report["log_ratio"], []
    for name, value, key in (("1, no difference,", 1.0, RATIO), (f"the paper's {PAPER_RATIO}", PAPER_RATIO, PAPER)):
        inside = own["low"] <= math.log(value) <= own["high"]
        where = (
            "within this interval" if inside else "outside of it" + ("" if signs[key] else ", but that is not decided")
        )
        said.append(f"{name} is {where}")
    return f"The ratio of FLOPs to an equal bound is {ratio_cell(own)}: {'; '.join(said)}."


def _less(interval: dict, value: float) -> dict:
    return {key: None if end is None else end - value for key, end in interval.items()}


def _counted(report: dict) -> list[str]:
    return [seed for seed in report["by_seed"] if seed not in report["poor"]]
