"""The jobs of the study of error rates that compute: reference, train, texts.

Each is called as `job(settings, inputs, folder)` by `studies.engine.runner`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.studies.engine.inputs import result_of
from arche_mdlm.studies.engine.small.fitting import PartsEvaluator, fit
from arche_mdlm.studies.error_rates.languages import HiddenMarkovModel, NGramLanguage
from arche_mdlm.studies.error_rates.oracle import ExactModel
from arche_mdlm.training.arguments import parse_changes
from arche_mdlm.training.files.checkpointing import write_json_atomically
from arche_mdlm.training.models.loading import load_arm

_REFERENCES = 2000  # sequences of the language itself
_HELD_OUT = 256  # sequences that a trained model's bound is measured on
_DATA_SEED = 1_000_003  # of the languages' own sequences: training's have another one for each seed


def make_language(own: dict) -> HiddenMarkovModel:
    """The language that a job's settings describe; one language at every length."""
    if own["kind"] == "ngram":
        return NGramLanguage.random_order(
            own["order"], own["vocab_size"], own["length"], seed=own["seed"], sharpness=1.0, sparsity=0.5
        )
    return HiddenMarkovModel.random(
        own["states"], own["vocab_size"], own["length"], seed=own["seed"], sharpness=1.0, sparsity=0.75
    )


def measure(language: HiddenMarkovModel, sequences: torch.Tensor, smoothing: float) -> dict[str, list]:
    """Of each sequence (B, L): `nats` a token under the smoothed language, and whether the language forbids it."""
    nats = -language.smoothed(smoothing).log_prob(sequences) / language.length
    return {
        "nats": [round(value, 6) for value in nats.tolist()],
        "forbidden": language.forbids(sequences).long().tolist(),
    }


def reference(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """The same figures of sequences that the language itself has drawn, and its entropy in nats a token."""
    language = make_language(settings["language"])
    sequences = language.sample(_REFERENCES, torch.Generator().manual_seed(_DATA_SEED))
    found = measure(language, sequences, settings["smoothing"])
    entropy = -float(language.log_prob(sequences).mean()) / language.length
    return {"nats": sum(found["nats"]) / _REFERENCES, "forbidden": sum(found["forbidden"]), "entropy": entropy,
            "sequences": _REFERENCES}  # fmt: skip


def language_tokenizer(vocab_size: int) -> PreTrainedTokenizerBase:
    """Tokens "0", "1", ..., then BOS, mask and pad, with the ids of `ExactModel`."""
    specials = {"bos_token": "<bos>", "mask_token": "<mask>", "pad_token": "<pad>"}
    words = [*map(str, range(vocab_size)), *specials.values()]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="0"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **specials)


class LanguageRows:
    """Sequences behind a BOS, as training reads rows."""

    def __init__(self, sequences: torch.Tensor, bos: int):
        self.rows = torch.cat([torch.full((len(sequences), 1), bos, dtype=sequences.dtype), sequences], dim=1)

    def __getitem__(self, chosen: list[int]) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[chosen].long()}


def train(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """A masked diffusion model trained on fresh sequences of the language, each seen once."""
    language = make_language(settings["language"])
    preset = load_preset("mini-mdlm", parse_changes(settings["changes"]))
    tokenizer = language_tokenizer(language.vocab_size)
    bos = language.vocab_size
    held_out = language.sample(_HELD_OUT, torch.Generator().manual_seed(_DATA_SEED))
    rows = LanguageRows(held_out, bos).rows.tolist()
    evaluator = PartsEvaluator({"held-out": rows}, language.length + 1, int(tokenizer.pad_token_id), 4, 64)

    def data() -> tuple[Any, list[int]]:
        number = preset.training.max_steps * preset.training.batch_size
        generator = torch.Generator().manual_seed(preset.training.seed)
        sequences = torch.cat(
            [language.sample(min(10_000, number - first), generator).short() for first in range(0, number, 10_000)]
        )
        return LanguageRows(sequences, bos), [language.length + 1] * number

    result = fit(preset, tokenizer, data, evaluator, folder / "run")
    entropy = -float(language.log_prob(held_out).mean()) / language.length
    return result | {"bound": result["history"][-1]["parts"]["held-out"]["nats"], "entropy": entropy}


def texts(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Figures of texts by number of steps, of the oracle or of the model that the job needs; each number is kept when done."""
    language = make_language(settings["language"])
    source = next((path for name, path in inputs.items() if name.startswith("train")), None)
    if source is None:
        language.dtype = torch.float32  # float64 is for contradictions
        model: Any = ExactModel(language)
    else:
        model = load_arm(source / "run" / result_of(source)["checkpoint"])[0].eval()
    file = folder / "cells.json"
    cells = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for steps in settings["steps"]:
        if str(steps) not in cells:
            sequences, forwards = generate(model, language.length, settings, steps)
            figures = measure(language, sequences, settings["smoothing"])
            cells[str(steps)] = figures | {"forwards": forwards}
            write_json_atomically(file, cells)
    file.unlink()
    return {"cells": cells}


def generate(model: Any, length: int, settings: dict, steps: int) -> tuple[torch.Tensor, float]:
    """(sequences (N, L) without their BOS, mean number of forwards); every text's stream depends on its number alone."""
    bos, parts, forwards = int(model.config.bos_token_id), [], 0.0
    number, size = settings["num_samples"], settings["batch_size"]
    for first in range(0, number, size):
        rows = min(size, number - first)
        streams = [torch.Generator().manual_seed((settings["seed"] or 0) * 10**6 + first + row) for row in range(rows)]
        output = model.generate(
            torch.full((rows, 1), bos), max_new_tokens=length, num_diffusion_steps=steps, sampler=settings["sampler"],
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, generator=streams, return_dict_in_generate=True,
        )  # fmt: skip
        parts.append(output.sequences[:, 1:])
        forwards += float(output.num_forward_passes.sum())
    return torch.cat(parts), forwards / number
