"""Jobs of the rows of a table: texts and their forwards, their quality, and time (`studies.engine.rows` plans them)."""

import json
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from arche_mdlm.metrics.diversity import diversity
from arche_mdlm.metrics.judge import Judge, load_judge, unigram_entropy
from arche_mdlm.studies.engine.inputs import result_of
from arche_mdlm.studies.engine.pair import Arm
from arche_mdlm.studies.engine.readings.floors import median_words
from arche_mdlm.studies.engine.readings.intervals import mean_interval
from arche_mdlm.studies.engine.readings.references import draw, fitting_stories, reference_entropy, reference_figures
from arche_mdlm.training.loop.provenance import cpu_name
from arche_mdlm.training.models.arms import arm_of
from arche_mdlm.training.models.loading import context_length
from arche_mdlm.writing.stories import own_seed

QUICK_SECONDS = 5  # a call that takes less is timed several times
_DIVERSITY = ("distinct_1", "distinct_2", "distinct_3", "distinct_4", "self_bleu", "repetition_4", "mean_words",
              "distinct_first_words", "distinct_openings")  # fmt: skip
_WITH_INTERVAL = ("distinct_2", "self_bleu", "distinct_first_words", "distinct_openings")


def texts(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """The texts of a row of the table, with their cost."""
    model, tokenizer = _ready(settings)
    kept = {key: settings[key] for key in ("num_samples", "repeats", "batch_size", "seed", "options")}
    return write_texts(model, tokenizer, **kept)


def speed(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Stories a second of calls of one batch size."""
    model, tokenizer = _ready(settings)
    return time_calls(model, tokenizer, **{key: settings[key] for key in ("calls", "batch_size", "seed", "options")})


def judged(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Quality of the texts of another job."""
    (source,) = inputs.values()
    return _judged(result_of(source)["texts"], settings)


def reference(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Quality of as many held-out stories: the judge's figures of one draw, all others over draws."""
    model, tokenizer = _ready(settings)
    stories, number = fitting_stories(settings["source"], tokenizer, context_length(model)), settings["number"]
    found = _judged(draw(stories, number, settings["seed"]), settings)
    of_draws = reference_figures(stories, number, settings["seed"])
    found |= {key: value for key, value in of_draws.items() if key in found}
    entropy = reference_entropy(stories, number, tokenizer)
    found |= {key.replace("entropy", "entropy_nats"): value for key, value in entropy.items()}
    return found | {"source": Path(settings["source"]).name, "sha256": settings["sha256"]}


def row_figures(row: dict, results: dict[str, dict]) -> dict:
    """All figures of a row that `rows.described` describes, from the results of jobs by name; without those of failed jobs."""
    left_out = ("texts", "judge", "stories_per_second")
    own = results.get(row["texts"], {}) | results.get(row["judged"], {})
    speeds = {size: results[job]["stories_per_second"] for size, job in row["speeds"].items() if job in results}
    return {"label": row["label"], "steps": row["steps"], **{k: v for k, v in own.items() if k not in left_out},
            "stories_per_second": speeds}  # fmt: skip


def machine(device: str, threads: int) -> dict:
    """What the figures of speed depend on."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu_name()
    return {"device": name, "threads": threads}


def _ready(settings: dict) -> tuple[Any, Any]:
    torch.set_num_threads(settings["threads"])
    return Arm(**settings["arm"]).load()


def _judged(texts: list[str], settings: dict) -> dict:
    _, tokenizer = _ready(settings)
    chosen = settings["judge"]
    judge = chosen and _judge(json.dumps(chosen, sort_keys=True), settings["arm"]["device"])
    return judge_texts(texts, tokenizer, judge, settings["seed"]) | {"judge": judge and judge.describe()}


@lru_cache(maxsize=1)
def _judge(chosen: str, device: str) -> Judge:
    """Kept for the next job: loading takes longer than judging a set of texts."""
    own = json.loads(chosen)
    return load_judge(own["name"], device=device, cuts=own["cuts"])


def generate(
    model: Any, tokenizer: PreTrainedTokenizerBase, first: int, batch_size: int, seed: int, options: dict
) -> tuple[torch.Tensor, list[int], list[float], list[int]]:
    """(sequences (B, L) with their BOS, forwards (B,), canvas positions a forward (B,), tokens cut off behind the end (B,)) of stories
    first, first + 1, ...

    An MDLM story's stream is its own; AR has one a batch. AR's forwards are the tokens written, EOS counted.
    """
    inputs = tokenizer([""] * batch_size, return_tensors="pt").to(model.device)
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    seeds = [own_seed(seed, first + i) for i in range(batch_size)]
    sequences, forwards, per_forward, behind = arm_of(model).generate(model, inputs, seeds, options)
    if forwards is None or per_forward is None:
        forwards = [_written(row, tokenizer) for row in sequences.tolist()]
        per_forward = [1.0] * batch_size
    return sequences, forwards, per_forward, behind


def _written(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens behind the BOS, up to the first EOS, which is counted, or pad, which is not."""
    for place, token in enumerate(ids[1:], 1):
        if token == tokenizer.eos_token_id:
            return place
        if token == tokenizer.pad_token_id:
            return place - 1
    return len(ids) - 1


def write_texts(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    num_samples: int,
    repeats: int,
    *,
    batch_size: int,
    seed: int,
    options: dict,
) -> dict:
    """Texts of a row of the table, means of the forwards and tokens they took, and the speed of the calls that wrote them.

    If these are fewer than `repeats` and quick, more are timed; a call that takes long is as steady by itself.
    """
    texts, tokens, ended, forwards, positions, cut, rates = [], [], [], [], [], [], []
    _warm_up(model, tokenizer, batch_size, options)
    for first in range(0, num_samples, batch_size):
        size = min(batch_size, num_samples - first)
        (sequences, own_forwards, own_positions, behind), seconds = _timed(
            generate, model, tokenizer, first, size, seed, options
        )
        rates += [size / seconds] if size == batch_size else []
        for ids in sequences.tolist():
            count = _written(ids, tokenizer)
            texts.append(tokenizer.decode(ids[1 : count + 1], skip_special_tokens=True))
            tokens.append(count)
            ended.append(tokenizer.eos_token_id in ids[1:])
        forwards += own_forwards
        positions += own_positions
        cut += [count > 0 for count in behind]
    while not rates or (len(rates) < repeats and batch_size / rates[0] < QUICK_SECONDS):
        _, seconds = _timed(generate, model, tokenizer, 0, batch_size, seed, options)
        rates.append(batch_size / seconds)
    return {
        "num_forwards": mean(forwards),
        "tokens_per_forward": sum(tokens) / max(sum(forwards), 1),  # of the story, EOS counted
        "positions_per_forward": mean(positions),  # of the canvas, the tail behind EOS counted
        "mean_tokens": mean(tokens),
        "ended_by_eos": mean(ended),
        "cut_texts": mean(cut),  # had tokens behind their end
        "stories_per_second": _summary(rates),
        "texts": texts,
    }


def judge_texts(texts: list[str], tokenizer: PreTrainedTokenizerBase, judge: Judge | None, seed: int) -> dict:
    """Quality of texts: the judge's figures (None without a judge), unigram entropy of the pair's tokens, diversity."""
    entropy = unigram_entropy(texts, tokenizer)
    keys = [*_DIVERSITY, *(f"{key}_ci" for key in _WITH_INTERVAL)]
    found = dict.fromkeys(keys)
    if any(text.split() for text in texts):
        words = diversity(texts, seed=seed)
        found = {key: words[key] for key in keys}
    _, low, high = mean_interval(entropy.per_text, seed)
    found |= {"unigram_entropy_nats": entropy.nats, "unigram_entropy_nats_ci": [low, high]}
    found["median_words"] = median_words(texts)
    found["empty_texts"] = sum(not text.strip() for text in texts)
    figures = dict.fromkeys(("generative_perplexity", "generative_perplexity_ci", "bits_per_byte"))
    if judge is not None:
        score = judge.score(texts)
        if sum(score.tokens):
            figures = {
                "generative_perplexity": score.generative_perplexity,
                "generative_perplexity_ci": list(score.perplexity_interval(seed)),
                "bits_per_byte": score.bits_per_byte,
            }
    return figures | found


def time_calls(
    model: Any, tokenizer: PreTrainedTokenizerBase, calls: int, *, batch_size: int, seed: int, options: dict
) -> dict:
    """Stories a second of each of `calls` calls, with stories of their own."""
    _warm_up(model, tokenizer, batch_size, options)
    seconds = [
        _timed(generate, model, tokenizer, number * batch_size, batch_size, seed, options)[1] for number in range(calls)
    ]
    return {"stories_per_second": _summary([batch_size / s for s in seconds])}


def _summary(rates: list[float]) -> dict:
    return {"median": median(rates), "low": min(rates), "high": max(rates), "calls": len(rates), "rates": rates}


def _warm_up(model: Any, tokenizer: PreTrainedTokenizerBase, batch_size: int, options: dict) -> None:
    """A short call of the same shapes, so that one-time work is not timed."""
    generate(model, tokenizer, 0, batch_size, 0, options | arm_of(model).shortest_call)


def _timed(call: Callable[..., Any], model: Any, *args: Any) -> tuple[Any, float]:
    """What `call(model, *args)` returns, and its seconds."""
    _wait(model.device)
    start = time.perf_counter()
    result = call(model, *args)
    _wait(model.device)
    return result, time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
