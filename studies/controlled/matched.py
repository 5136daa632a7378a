"""AR at MDLM's likelihood: two further columns, whose training ends where AR fits the held-out stories as well as MDLM does.

A worse fit is more diverse in either paradigm, so that diversity at equal tokens is not only the paradigm's.
"""

from dataclasses import replace

from arche_mdlm.configuration.model_config import make_config
from arche_mdlm.configuration.settings import Preset
from arche_mdlm.family_mdlm import family_of

AT_BOUND, AT_LEFT_TO_RIGHT = "ar-at-bound", "ar-at-left-to-right"
MATCHED_COLUMNS = (AT_BOUND, AT_LEFT_TO_RIGHT)
WHERE_STOPPED = {AT_BOUND: "bound", AT_LEFT_TO_RIGHT: "exact left-to-right NLL"}
_EVALUATIONS = 50  # at least, in max_steps: a run ends at one


def writes_left_to_right(preset: Preset) -> bool:
    """Whether a model of this preset has an exact likelihood of writing a token a step in that order."""
    family = family_of(make_config(preset.model.architecture, preset.model.config))
    return family.corruption.has_order and not family.order.has_ranks


def matched_preset(preset: Preset, column: str, exact_stories: int) -> Preset:
    """`preset` with frequent evaluations, of the stories that MDLM's likelihood is known for."""
    training = preset.training
    every = max(1, min(training.eval_every, training.max_steps // _EVALUATIONS))
    rows = exact_stories if column == AT_LEFT_TO_RIGHT else training.eval_rows
    return replace(preset, training=replace(training, eval_every=every, eval_rows=rows))


def likelihood_job(column: str, mdlm: str, seed: int) -> str:
    """The job that finds the likelihood of MDLM (a column) at which AR stops."""
    return f"likelihood-{mdlm}-s{seed}-best" if column == AT_BOUND else f"exact-{mdlm}-s{seed}"


def not_reached(arm: dict) -> list[str]:
    """Seeds of a matched column whose run was at its last step before it was as good as MDLM."""
    return [seed for seed, run in arm.get("training", {}).items() if run["stop_at_nats"] is not None
            and run["best_nats"] > run["stop_at_nats"]]  # fmt: skip


def note(arms: dict[str, dict]) -> str:
    """What the matched columns are, and which runs did not get there; empty without them."""
    if not any(column in arms for column in MATCHED_COLUMNS):
        return ""
    failed = [f"{column} seed {seed}" for column in MATCHED_COLUMNS for seed in not_reached(arms.get(column, {}))]
    said = (
        f"`{AT_BOUND}` and `{AT_LEFT_TO_RIGHT}`: AR as in `ar-seen`, stopped at the first evaluation at which its NLL is at or below the bound of the "
        "first MDLM column, or its exact left-to-right NLL, of the same seed on the same held-out stories; the learning rate is then still high."
    )
    return said + (f" Not reached before the last step: {', '.join(failed)}." if failed else "")
