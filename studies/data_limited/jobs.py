"""The jobs of the study of few unique tokens that are its own: exact likelihoods, and the summary.

Its others are those of `studies.engine.small.subsets`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arche_mdlm.configuration.devices import default_device
from arche_mdlm.metrics.corpus_likelihood import CorpusLikelihood
from arche_mdlm.metrics.policy_likelihood import corpus_policy_nll
from arche_mdlm.studies.data_limited.summary import summary
from arche_mdlm.studies.engine.inputs import result_of
from arche_mdlm.studies.engine.small.curves import Curve, chosen_on_halves
from arche_mdlm.studies.engine.small.subsets import HALVES, prepared_rows, sampled_rows, subset_of, tokenizer_of
from arche_mdlm.training.models.arms import arm_of
from arche_mdlm.training.models.loading import load_arm


def exact(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Exact NLL of each arm's best checkpoint on the first rows of the held-out ones: AR's own, MDLM's as it writes from left to right.

    The training and the step are chosen by the loss on one half of the held-out rows, AR's over all its settings, and measured on
    rows of the other half. By arm: `nats` a token, the mean of both halves, and of each half `training`, `checkpoint`, `nats` and
    `tokens`.
    """
    source, tokenizer = subset_of(inputs), tokenizer_of(inputs)
    context = settings["context_length"]
    rows = {}
    for half in HALVES:
        prepared = prepared_rows(source, half, tokenizer, context, folder / "rows")
        rows[half] = sampled_rows(prepared, settings["evaluation_rows"], settings["data_seed"])[: settings["rows"]]
    found: dict[str, dict] = {}
    for arm in ("mdlm", "ar"):
        names = [name for name, own in settings["arms"].items() if own == arm]
        results = [result_of(inputs[name]) for name in names]
        halves = {}
        for chooser, (which, _) in enumerate(chosen_on_halves([Curve.of(one["history"]) for one in results])):
            checkpoint = results[which]["best"][HALVES[chooser]]
            measured = HALVES[1 - chooser]
            score = _score(inputs[names[which]] / "run" / checkpoint, rows[measured], context)
            halves[measured] = {"training": names[which], "checkpoint": checkpoint, "nats": score.nats_per_token,
                                "tokens": score.num_tokens}  # fmt: skip
        found[arm] = {"nats": sum(own["nats"] for own in halves.values()) / len(halves), "halves": halves}
    return found


def _score(checkpoint: Path, rows: Sequence[Sequence[int]], context: int) -> CorpusLikelihood:
    """Of a checkpoint's arm, on texts up to their EOS, or of a full context without one."""
    model, tokenizer = load_arm(checkpoint)
    model = model.to(default_device()).eval()
    options: dict[str, Any] = {"pad_token_id": tokenizer.pad_token_id}
    if arm_of(model).is_bound:
        return corpus_policy_nll(
            model, rows, canvas_length=context, policy="left_to_right", stop_at_eos=True, **options
        )
    return arm_of(model).score(model, rows, canvas_length=context, num_samples=1, seed=0, **options)


def summarise(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """As `summary.summary`, of the jobs in these folders."""
    return summary(settings, {name: result_of(path) for name, path in inputs.items()})
