"""Jobs that share their code among studies: a random subset of stories with a tokenizer of its own, and a training on it.

Each is called as `job(settings, inputs, folder)` by `studies.engine.runner`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.studies.engine.inputs import result_of
from arche_mdlm.studies.engine.small.endings import Endings
from arche_mdlm.studies.engine.small.fitting import PartsEvaluator, fit
from arche_mdlm.training.arguments import parse_changes
from arche_mdlm.training.data.corpus import row_lengths
from arche_mdlm.training.data.preparing import prepare_data
from arche_mdlm.training.data.sources import open_source
from arche_mdlm.training.data.tokenizers_io import train_bpe

HALVES = ("held-out-a", "held-out-b")  # of the held-out stories: one chooses a step, the other measures it
_CHARACTERS = 3.0  # a token of a small vocabulary has fewer


def check_stories(settings: Any) -> None:
    """Before any job: ValueError where `settings` (a `SubsetSettings` with `unique_tokens`) name files that have no stories, or too few."""
    stories, sizes = _shuffled(settings.data, 0), settings.unique_tokens
    most = max(sizes) if isinstance(sizes, tuple) else sizes
    if sum(map(len, stories)) < most:  # no token is shorter than a character
        raise ValueError(f"unique_tokens={most} is more than the number of tokens in {settings.data}")
    if settings.validation_data is not None:
        _enough(_shuffled(settings.validation_data, 0), settings.evaluation_rows)


def _enough(held_out: list[str], rows: int) -> None:
    if len(held_out) < 2 * rows:
        raise ValueError(
            f"evaluation_rows={rows}: two halves need {2 * rows} held-out stories, there are {len(held_out)}; give more, or a "
            "smaller number"
        )


def subset(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Draw training stories of about `unique_tokens` tokens, and as many held-out stories as there are rows of evaluation.

    The tokenizer is trained on the training stories. Held-out stories come from `validation_data` or, without it, from
    the stories that are left. ValueError where there are too few.
    """
    stories = _shuffled(settings["data"], settings["seed"])
    budget = settings["unique_tokens"]
    candidates = list(_until(stories, budget * _CHARACTERS))
    tokenizer = train_bpe(candidates, settings["vocab_size"])
    number = _fitting(candidates, tokenizer, budget)
    if number == len(candidates) == len(stories):
        raise ValueError(f"unique_tokens={budget} is more than the number of tokens in {settings['data']}")
    training = stories[: max(1, number)]
    tokenizer = train_bpe(training, settings["vocab_size"])
    tokenizer.save_pretrained(folder / "tokenizer")
    others = stories[len(training) :]
    if settings["validation_data"] is not None:
        others = _shuffled(settings["validation_data"], settings["seed"])
    rows = settings["evaluation_rows"]
    _enough(others, rows)
    parts = {"train": training, HALVES[0]: others[:rows], HALVES[1]: others[rows : 2 * rows]}
    for name, texts in parts.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    tokens = sum(map(len, tokenizer(training, verbose=False)["input_ids"]))
    return {"stories": len(training), "tokens": tokens, "held_out_stories": 2 * rows, "vocab_size": len(tokenizer)}


def _shuffled(source: str, seed: int) -> list[str]:
    """Its different texts, in an order of the seed; ValueError for none."""
    texts = list(dict.fromkeys(text for text in open_source(source) if text))
    if not texts:
        raise ValueError(f"{source!r} has no stories")
    return [texts[index] for index in np.random.default_rng([seed, 11]).permutation(len(texts))]


def _until(texts: list[str], characters: float) -> Iterator[str]:
    total = 0
    for text in texts:
        if total >= characters:
            return
        total += len(text)
        yield text


def _fitting(texts: list[str], tokenizer: PreTrainedTokenizerBase, budget: int) -> int:
    """How many of the first texts have at most `budget` tokens together."""
    lengths = [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]]
    return int(np.searchsorted(np.cumsum(lengths), budget, side="right"))


def train(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """A training on the subset that the job needs, evaluated on a grid of steps with the same masks; see `fit`.

    Longer stories are cut into rows. `unique_tokens` is what the subset has. With a `start` in the settings, the name of a
    training that the job needs, it begins from the last weights of that one. With `endings`, so many endings of each half of the
    held-out rows are told from corrupted ones at every evaluation.
    """
    tokenizer = tokenizer_of(inputs)
    preset = load_preset(settings["preset"], parse_changes(settings["changes"]))

    def data() -> tuple[Any, Any]:
        rows = rows_of("train", tokenizer, settings, inputs, folder)
        return rows, row_lengths(rows)

    parts = {part: evaluated_rows(part, tokenizer, settings, inputs, folder) for part in ("train", *HALVES)}
    number, seed = settings.get("endings", 0), [settings["data_seed"], 17]
    endings = {half: Endings.of(parts[half], number, seed, tokenizer.eos_token_id) for half in HALVES if number}
    context, pad = preset.data.context_length, int(tokenizer.pad_token_id)
    evaluator = PartsEvaluator(parts, context, pad, settings["evaluation_draws"], endings=endings)
    start = last_checkpoint(inputs[settings["start"]]) if "start" in settings else None
    return fit(preset, tokenizer, data, evaluator, folder / "run", start)


def last_checkpoint(training: Path) -> Path:
    """Of a finished job of `train`, by its folder."""
    return training / "run" / result_of(training)["checkpoint"]


def subset_of(inputs: dict[str, Path]) -> Path:
    """The folder of the subset that a job needs."""
    return next(path for name, path in inputs.items() if name.startswith("subset"))


def tokenizer_of(inputs: dict[str, Path]) -> PreTrainedTokenizerBase:
    """That of the subset that a job needs."""
    return AutoTokenizer.from_pretrained(subset_of(inputs) / "tokenizer")


def rows_of(
    part: str, tokenizer: PreTrainedTokenizerBase, settings: dict, inputs: dict[str, Path], folder: Path
) -> Any:
    """The rows of "train" or of a half of the held-out stories of a training job's subset, cached in the job's folder."""
    context = settings["resolved"]["data"]["context_length"]
    return prepared_rows(subset_of(inputs), part, tokenizer, context, folder / "rows")


def evaluated_rows(
    part: str, tokenizer: PreTrainedTokenizerBase, settings: dict, inputs: dict[str, Path], folder: Path
) -> list[list[int]]:
    """Ids of the rows of `rows_of` that the evaluations of a training read."""
    rows = rows_of(part, tokenizer, settings, inputs, folder)
    return sampled_rows(rows, settings["evaluation_rows"], settings["data_seed"])


def prepared_rows(subset: Path, part: str, tokenizer: PreTrainedTokenizerBase, context: int, cache: Path) -> Any:
    """The rows of a part of a subset, as `fit` and `sampled_rows` take them; longer stories are cut."""
    return prepare_data(
        subset / f"{part}.jsonl", tokenizer, context_length=context, long_documents="chunk", cache_dir=cache
    ).dataset


def sampled_rows(rows: Any, number: int, seed: int) -> list[list[int]]:
    """Token ids of so many of the rows, or of all, in their order; always the same for a seed."""
    chosen = np.random.default_rng([seed, 13]).choice(len(rows), min(number, len(rows)), replace=False)
    return rows[sorted(chosen.tolist())]["input_ids"]
