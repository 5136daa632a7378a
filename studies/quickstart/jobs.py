"""The jobs of the comparison of a trained pair: stories, their diversity, likelihood, the reference."""

import platform
from pathlib import Path
from typing import Any

import torch
import transformers

from arche_mdlm.metrics.diversity import diversity, unsplit_share
from arche_mdlm.studies.engine.inputs import SAMPLES, read_samples, result_of, seconds_taken
from arche_mdlm.studies.engine.pair import Arm
from arche_mdlm.studies.engine.readings.first_tokens import DATA, described, law_of_ids, law_of_model, vocabulary_hash
from arche_mdlm.studies.engine.readings.floors import median_words, why_poor
from arche_mdlm.studies.engine.readings.intervals import ratio_interval
from arche_mdlm.studies.engine.readings.references import (
    committed_bigram,
    committed_first_tokens,
    fitting_stories,
    reference_figures,
)
from arche_mdlm.studies.engine.records import HASHES, story_hashes
from arche_mdlm.studies.quickstart.first_look import fill
from arche_mdlm.training.data.preparing import prepare_data
from arche_mdlm.training.loop.evaluation import Evaluator
from arche_mdlm.training.models.arms import AUTOREGRESSIVE
from arche_mdlm.training.models.loading import context_length
from arche_mdlm.writing.sample_file import SampleFile
from arche_mdlm.writing.stories import write_stories


def stories(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """One story a prompt, in `samples.jsonl`, kept a batch at a time."""
    model, tokenizer = Arm(**settings["arm"]).load()
    prompts, size = settings["prompts"], settings["batch_size"]
    file = SampleFile(folder / SAMPLES, len(prompts), size, {"batch_size": size})  # the folder's name has the rest
    written = write_stories(
        model, tokenizer, prompts, seed=settings["seed"], batch_size=size, description=settings["description"],
        file=file, **settings["options"],
    )  # fmt: skip
    return {"seconds": written.seconds}


def diversity_of(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """`figures` with intervals, None where every text is empty, and the `unsplit_share` of the texts."""
    (source,) = inputs.values()
    texts = [story["text"] for story in read_samples(source)]
    figures = _figures(texts, settings) if any(text.split() for text in texts) else None
    return {"figures": figures, "unsplit_share": unsplit_share(texts)}


def _figures(texts: list[str], settings: dict) -> dict:
    return diversity(texts, seed=settings["seed"], tokenizer=settings["count"])


def likelihood(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Of the text given as `data`: AR's exact NLL, MDLM's NELBO with its standard error; the interval over stories and all values."""
    model, tokenizer = Arm(**settings["arm"]).load()
    length, count = context_length(model), settings["stories"]
    rows = prepare_data(settings["data"], tokenizer, layout="rows", context_length=length, split="train")
    score = Evaluator(rows.dataset, length, tokenizer.pad_token_id, settings["num_samples"], count).score(model)
    chosen = rows.dataset[:count]["input_ids"]
    tokens = [len(ids) - 1 for ids in chosen]
    interval = list(ratio_interval(score.nats, tokens)[1:]) if count > 1 else None
    return {
        "nats_per_token": score.nats_per_token,
        "nats_per_token_ci": interval,
        "standard_error": score.standard_error,
        "bits_per_byte": score.bits_per_byte,
        "stories": count,
        "nats": score.nats,
        "tokens": tokens,
        HASHES: story_hashes(chosen, tokenizer),
    }


def reference(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Figures of real held-out stories, as many as an arm writes, over draws."""
    model, tokenizer = Arm(**settings["arm"]).load()
    stories = fitting_stories(settings["source"], tokenizer, context_length(model))
    figures = reference_figures(stories, settings["number"], settings["seed"], settings["count"])
    return {"source": Path(settings["source"]).name, "sha256": settings["sha256"], "figures": figures}


def first_tokens(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """The law of the first token of both arms, and of real stories: those given, or the committed law of this tokenizer."""
    laws, data = {}, None
    for name, own in settings["arms"].items():
        model, tokenizer = Arm(**own).load()
        laws[name] = [law_of_model(model)]
    if settings["source"] is not None:
        stories = fitting_stories(settings["source"], tokenizer, context_length(model))
        first = [ids[1] for ids in tokenizer(stories, verbose=False)["input_ids"] if len(ids) > 1]
        data = law_of_ids(first, len(tokenizer), f"{len(first):,} stories of {Path(settings['source']).name}")
    elif (committed := committed_first_tokens(vocabulary_hash(tokenizer))) is not None:
        data = law_of_ids(committed["ids"], len(tokenizer), committed["what"])
    return described(({DATA: [data]} if data else {}) | laws, tokenizer, settings["number"])


def gaps(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Each text with its gaps filled."""
    model, tokenizer = Arm(**settings["arm"]).load()
    temperature, seed = settings["temperature"], settings["seed"]
    return {"filled": {text: fill(model, tokenizer, text, temperature, seed) for text in settings["texts"]}}


def temperatures(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Diversity of each arm's first texts at two temperatures, and the AR twin's NLL of them, nats a token."""
    twin, tokenizer = Arm(**settings["twin"]).load()
    rows = []
    for name, path in inputs.items():
        arm, _, kind = name.partition("-")
        texts = [story["text"] for story in read_samples(path)][: settings["number"]]
        written = [text for text in texts if text.strip()]
        row = {"arm": arm, "temperature": settings["temperatures"][kind], "texts": len(texts)}
        row["diversity"] = _figures(texts, settings) if written else None
        row["twin_nats"] = _nats_a_token(twin, tokenizer, written) if written else None
        rows.append(row)
    return {"rows": rows}


def _nats_a_token(model: Any, tokenizer: Any, texts: list[str]) -> float:
    length = context_length(model)
    rows = [ids[:length] for ids in tokenizer(texts, verbose=False)["input_ids"]]
    return AUTOREGRESSIVE.score(
        model, rows, canvas_length=length, pad_token_id=tokenizer.pad_token_id, num_samples=1, seed=0
    ).nats_per_token


def summarise(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """The report's figures."""
    bigram = committed_bigram(vocabulary_hash(Arm(**settings["arms"]["AR"]["arm"]).load()[1]))
    arms = {name: _arm(name, own, settings["corpus"], inputs) for name, own in settings["arms"].items()}
    floor = bigram["nats_per_token"] if bigram else None
    for name, own in settings["arms"].items():  # the card's likelihood is of the same held-out stories as the bigram's
        words = median_words([story["text"] for story in arms[name]["unprompted"]])
        arms[name]["poor"] = why_poor(words, own["card"] and own["card"]["nats_per_token"], floor)
    return {
        "bigram": bigram,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""),
        "arms": arms,
        "first_tokens": result_of(inputs["first-tokens"]),
        "reference": result_of(inputs["reference"]) if "reference" in inputs else settings["reference"],
        "gaps": result_of(inputs["MDLM-gaps"])["filled"],
        "temperatures": result_of(inputs["temperatures"])["rows"],
        "seconds": sum(map(seconds_taken, inputs.values())),
    }


def _arm(name: str, own: dict, corpus: str, inputs: dict[str, Path]) -> dict:
    model, _ = Arm(**own["arm"]).load()
    unprompted, prompted = (read_samples(inputs[f"{name}-{kind}"]) for kind in ("unprompted", "prompted"))
    found, seconds = result_of(inputs[f"{name}-diversity"]), result_of(inputs[f"{name}-unprompted"])["seconds"]
    tokens = sum(story["num_tokens"] for story in unprompted)
    card = {"validation split, from the model card": own["card"]} if own["card"] else {}
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "diversity": found["figures"],
        "unsplit_share": found["unsplit_share"],
        "likelihood": card | {corpus: result_of(inputs[f"{name}-likelihood"])},
        "stories_per_second": len(unprompted) / seconds,
        "tokens_per_second": tokens / seconds,
        "mean_tokens": tokens / len(unprompted),
        "ended_by_eos": sum(story["ended"] for story in unprompted) / len(unprompted),
        "unprompted": [_story(record) for record in unprompted],
        "prompted": [_story(record) for record in prompted],
    }


def _story(record: dict) -> dict:
    return {key: record[key] for key in ("prompt", "text", "seed", "num_tokens", "ended")}
