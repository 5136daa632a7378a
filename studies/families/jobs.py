"""The jobs of the comparison of families: likelihoods, and the summary; those of the rows are in `studies.engine.texts`."""

from pathlib import Path
from typing import Any

import torch
import transformers

from arche_mdlm.family_mdlm import family_of
from arche_mdlm.metrics.corpus_likelihood import CorpusLikelihood
from arche_mdlm.metrics.order_likelihood import corpus_order_nll
from arche_mdlm.metrics.policy_likelihood import corpus_policy_nll
from arche_mdlm.studies.engine.inputs import result_of
from arche_mdlm.studies.engine.pair import Arm
from arche_mdlm.studies.engine.readings.floors import why_poor
from arche_mdlm.studies.engine.records import HASHES, story_hashes
from arche_mdlm.studies.engine.texts import machine, row_figures
from arche_mdlm.studies.families.comparisons import compare
from arche_mdlm.training.data.preparing import prepare_data
from arche_mdlm.training.models.arms import arm_of
from arche_mdlm.training.models.loading import context_length

_BATCH = 32


def likelihood(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """AR's exact NLL or a diffusion model's bound, of the first stories of `data`."""
    model, rows, options, hashes = _read(settings)
    score = arm_of(model).score(
        model, rows, num_samples=settings["num_samples"], seed=settings["seed"], batch_size=_BATCH, **options
    )
    return _figures(score, rows) | {HASHES: hashes}


def exact(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """The exact NLL of writing a token a step from left to right up to the EOS; where the model's orders are random, a bound on it from
    `num_orders` of them, of the whole canvas."""
    model, rows, options, hashes = _read(settings)
    if family_of(model).order.has_ranks:
        generator = torch.Generator().manual_seed(settings["seed"])
        score = corpus_order_nll(model, rows, num_orders=settings["num_orders"], generator=generator, **options)
        return _figures(score, rows) | {HASHES: hashes} | {"num_orders": settings["num_orders"]}
    score = corpus_policy_nll(model, rows, policy="left_to_right", stop_at_eos=True, **options)
    return _figures(score, rows) | {HASHES: hashes} | {"num_orders": None}


def _read(settings: dict) -> tuple[Any, list, dict, list[str]]:
    """(model, rows of ids, what else a score needs, the sha256 of each story)."""
    torch.set_num_threads(settings["threads"])
    model, tokenizer = Arm(**settings["arm"]).load()
    length = context_length(model)
    found = prepare_data(settings["data"], tokenizer, layout="rows", context_length=length, split="train")
    chosen = found.dataset[: settings["stories"]]
    num_bytes = chosen.get("num_bytes")
    options = {"canvas_length": length, "pad_token_id": tokenizer.pad_token_id, "num_bytes": num_bytes}
    return model, chosen["input_ids"], options, story_hashes(chosen["input_ids"], tokenizer)


def _figures(score: CorpusLikelihood, rows: list) -> dict:
    return {
        "nats_per_token": score.nats_per_token,
        "standard_error": score.standard_error,
        "bits_per_byte": score.bits_per_byte,
        "stories": score.num_stories,
        "nats": score.nats,
        "tokens": [len(row) - 1 for row in rows],
    }


def summarise(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """The report's figures: every model's, every row's, their differences, and what the jobs have found by name."""
    results = {name: result_of(path) for name, path in inputs.items()}
    rows = [row_figures(row, results) | {"story": _story(row, results)} for row in settings["rows"]]
    models = {label: _model(own, results) for label, own in settings["models"].items()}
    floor = settings["bigram"] and settings["bigram"]["nats_per_token"]
    rows = [row | {"poor": why_poor(row.get("median_words"), _nats(models[row["label"]]), floor)} for row in rows]
    judges = [results[row["judged"]]["judge"] for row in settings["rows"] if row["judged"] in results]
    return {
        "models": models,
        "rows": rows,
        "reference": _reference(settings, results),
        "comparisons": compare(models, rows, settings["seed"]),
        "bigram": settings["bigram"],
        "corpus": settings["corpus"],
        "judge": judges[0] if judges else None,
        "judged_by_twin": settings["judged_by_twin"],
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "machine": machine(settings["device"], settings["threads"]),
        "cells": results,
    }


def _nats(own: dict) -> float | None:
    """The exact likelihood where it is known, else the bound."""
    known = own["exact"] or own["likelihood"]
    return known and known["nats_per_token"]


def _story(row: dict, results: dict[str, dict]) -> str | None:
    """The first one of a row."""
    return results[row["texts"]]["texts"][0] if row["texts"] in results else None


def _model(own: dict, results: dict[str, dict]) -> dict:
    kept = {key: own[key] for key in ("family", "is_bound", "parameters", "checkpoint", "cost")}
    return kept | {
        "has_exact": not own["is_bound"] or "exact" in own["jobs"],
        "likelihood": results.get(own["jobs"]["likelihood"]),
        "exact": results.get(own["jobs"].get("exact", "")),
    }


def _reference(settings: dict, results: dict[str, dict]) -> dict | None:
    """The figures of real stories: measured, or those that are committed for this number."""
    if "reference" in results:
        return results["reference"]
    committed = settings["reference"]
    return committed and {**committed["figures"], "source": committed["source"], "sha256": committed["sha256"]}
