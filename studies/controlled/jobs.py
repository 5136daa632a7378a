"""The jobs of the controlled comparison: check, supervision, train, likelihood, sample, metrics, references, summarise.

Each is called as `job(settings, inputs, folder)` by `studies.engine.runner`.
"""

import shutil
from pathlib import Path

import torch

from arche_mdlm.configuration.model_config import make_config
from arche_mdlm.configuration.settings import ModelSettings, TrainingSettings
from arche_mdlm.metrics.diversity import diversity_differences
from arche_mdlm.metrics.policy_likelihood import corpus_policy_nll
from arche_mdlm.metrics.tokens.bigram import fit_bigram
from arche_mdlm.studies.controlled import texts as texts_of
from arche_mdlm.studies.controlled.summary import summary
from arche_mdlm.studies.engine.inputs import SAMPLES, read_samples, result_of
from arche_mdlm.studies.engine.readings.first_tokens import DATA, described, law_of_ids, law_of_model
from arche_mdlm.studies.engine.readings.references import draw, reference_entropy, reference_figures
from arche_mdlm.studies.engine.records import HASHES, story_hashes
from arche_mdlm.studies.engine.trainings import load_checkpoint, read_corpus
from arche_mdlm.training.batches.batching import BatchPlanner
from arche_mdlm.training.batches.step_batches import StepBatches
from arche_mdlm.training.models.arms import arm_of
from arche_mdlm.training.models.build import build_model
from arche_mdlm.writing.sample_file import SampleFile
from arche_mdlm.writing.stories import write_stories

_EXAMPLES = 3  # stories of a set that a report has
_LIKELIHOOD_SEED = 20260322  # the same masks for every checkpoint


def check(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Equal numbers of parameters and equal data settings in both arms, or ValueError."""
    arms = settings["arms"]
    if arms["mdlm"]["data"] != arms["ar"]["data"]:
        raise ValueError(f"the arms' data settings differ: {arms['mdlm']['data']} and {arms['ar']['data']}")
    corpus = read_corpus(settings)
    counts = {}
    for name, preset in arms.items():
        model = build_model(ModelSettings(**preset["model"]), corpus.tokenizer)
        counts[name] = sum(p.numel() for p in model.parameters())
    if counts["mdlm"] != counts["ar"]:
        raise ValueError(f"parameters are not equal: MDLM {counts['mdlm']:,}, AR {counts['ar']:,}")
    data = {"train": corpus.train.summary.to_dict(), "validation": corpus.validation.summary.to_dict()}
    return {"parameters": counts["mdlm"], "data": data}


def check_held_out(settings: dict) -> None:
    """Before any job: ValueError for fewer held-out stories, or prompts from them, than `num_samples`."""
    corpus, number = read_corpus(settings), settings["num_samples"]
    held_out = texts_of.held_out(corpus, corpus.tokenizer)
    draw(held_out, number, 0)
    for kind in settings["prompts"]:
        texts_of.prompts(kind, held_out, corpus.tokenizer, number)


def supervision(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """How many real tokens MDLM is supervised on, by its own masks, and at which step AR has been on as many.

    Masked pads of the canvas's tail are counted apart (`tail`): AR has none.
    """
    corpus, training = read_corpus(settings), TrainingSettings(**settings["preset"]["training"])
    tokenizer, pad = corpus.tokenizer, corpus.tokenizer.pad_token_id
    lengths = corpus.train_lengths
    planner = BatchPlanner(
        lengths, training.batch_size, settings["preset"]["data"]["context_length"], training.seed,
        training.short_canvas_share, corpus.leading_bos, training.length_multiple,
        training.length_pool,
    )  # fmt: skip
    config = make_config("mdlm", settings["preset"]["model"]["config"], mask_token_id=tokenizer.mask_token_id)
    batches = StepBatches(corpus.train.dataset, planner, training, config, pad)
    seen, supervised, tail = [], 0, 0
    for step in range(training.max_steps):
        batch = batches[step]
        width = torch.from_numpy(lengths[planner.plan(step).rows])
        labels = torch.cat([part["labels"] for part in batch["inputs"]])
        chosen = labels != -100
        real = torch.arange(labels.shape[1]) < width[:, None]  # GPT-2's pad is a token of stories too
        supervised += int((chosen & real).sum())
        tail += int((chosen & ~real).sum())
        seen.append(batch["num_tokens"])
    total, steps = 0, 0
    while total < supervised:
        total += seen[steps]
        steps += 1
    return {"mdlm_seen": sum(seen), "mdlm_supervised": supervised, "mdlm_supervised_tail": tail,
            "ar_steps": max(1, steps), "ar_supervised": total}  # fmt: skip


def _of_same_weights(inputs: dict[str, Path], kind: str) -> Path | None:
    """The best checkpoint's job, for the last checkpoint where it is the same."""
    source = next(path for name, path in inputs.items() if name.startswith("train"))
    trained = result_of(source)
    same = next((path for name, path in inputs.items() if name.startswith(kind) and "-best" in name), None)
    return same if trained["best_step"] == trained["steps"] else None


def likelihood(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """On all held-out stories: AR's exact NLL, or MDLM's NELBO with its standard error; nats and tokens of each story."""
    if (same := _of_same_weights(inputs, "likelihood")) is not None:
        return result_of(same)
    model, tokenizer = load_checkpoint(settings, inputs)
    rows = read_corpus(settings, tokenizer).validation.dataset[:]
    arm = arm_of(model)
    score = arm.score(
        model, rows["input_ids"], canvas_length=settings["preset"]["data"]["context_length"],
        pad_token_id=tokenizer.pad_token_id, num_bytes=rows["num_bytes"],
        num_samples=settings["num_samples"], seed=_LIKELIHOOD_SEED,
    )  # fmt: skip
    kept = ("nats_per_token", "standard_error", "nats_per_story", "bits_per_byte", "num_tokens", "num_stories", "nats")
    figures = {key: getattr(score, key) for key in kept}
    figures |= {HASHES: story_hashes(rows["input_ids"], tokenizer)}
    return figures | {"tokens": [len(ids) - 1 for ids in rows["input_ids"]], "bound": arm.is_bound}


def exact(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """MDLM's exact NLL of the first held-out stories, where it writes a token a step from left to right up to the EOS."""
    model, tokenizer = load_checkpoint(settings, inputs)
    rows = read_corpus(settings, tokenizer).validation.dataset[: settings["exact_stories"]]
    score = corpus_policy_nll(
        model, rows["input_ids"], canvas_length=settings["preset"]["data"]["context_length"],
        pad_token_id=tokenizer.pad_token_id, num_bytes=rows["num_bytes"], policy="left_to_right", stop_at_eos=True,
    )  # fmt: skip
    kept = ("nats_per_token", "nats_per_story", "bits_per_byte", "num_tokens", "num_stories", "nats")
    figures = {key: getattr(score, key) for key in kept} | {HASHES: story_hashes(rows["input_ids"], tokenizer)}
    return figures | {"tokens": [len(ids) - 1 for ids in rows["input_ids"]]}


def bigram(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """The floor: an interpolated bigram of the training stories, on the held-out ones."""
    corpus = read_corpus(settings)
    train, held_out = (part.dataset[:]["input_ids"] for part in (corpus.train, corpus.validation))
    model = fit_bigram(train, len(corpus.tokenizer))
    few = held_out[: settings["exact_stories"]]
    return {"nats_per_token": model.nats_per_token(held_out), "weight": model.weight, "stories": len(held_out),
            "exact_stories": len(few), "nats_per_token_exact": model.nats_per_token(few)}  # fmt: skip


def first_token(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """The law of the first token of a checkpoint."""
    model, _ = load_checkpoint(settings, inputs)
    return law_of_model(model)


def sample(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Stories, one a prompt, in `samples.jsonl`; the same prompts for both arms and all seeds of training."""
    if (same := _of_same_weights(inputs, "sample")) is not None:
        shutil.copyfile(same / SAMPLES, folder / SAMPLES)
        return result_of(same)
    model, tokenizer = load_checkpoint(settings, inputs)
    held_out = texts_of.held_out(read_corpus(settings, tokenizer), tokenizer)
    prompts = texts_of.prompts(settings["prompt"], held_out, tokenizer, settings["num_samples"])
    options = {"do_sample": True, "temperature": settings["temperature"], "top_k": 0, "top_p": 1.0}
    options |= {
        name: settings[name] for name in ("num_diffusion_steps",) if name in settings
    }  # the arms' that have steps
    context = settings["preset"]["data"]["context_length"]
    size = settings["batch_size"]
    file = SampleFile(folder / SAMPLES, len(prompts), size, {"batch_size": size})  # the folder's name has the rest
    written = write_stories(
        model, tokenizer, prompts, seed=settings["seed"], batch_size=size, max_length=context, file=file, **options
    )
    return {"stories": len(prompts), "stories_per_second": len(prompts) / written.seconds}


def metrics(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Figures of a job's samples, and the figures of each story for paired comparisons."""
    if (same := _of_same_weights(inputs, "metrics")) is not None:
        return result_of(same)
    source = next(path for name, path in inputs.items() if name.startswith("sample"))
    stories = read_samples(source)
    _, tokenizer = load_checkpoint(settings, inputs)
    corpus = read_corpus(settings, tokenizer)
    compared = {}
    if settings["temperature"] == 1.0:
        others = draw(texts_of.held_out(corpus, tokenizer), len(stories), 0)
        compared = {"training": texts_of.training_texts(corpus, tokenizer), "others": others}
    figures = texts_of.measure([story["text"] for story in stories], tokenizer, settings, **compared)
    tokens = [story["num_tokens"] for story in stories]
    ended = sum(story["ended"] for story in stories) / len(stories)
    examples = [{key: story[key] for key in ("prompt", "text", "seed")} for story in stories[:_EXAMPLES]]
    return figures | {"mean_tokens": sum(tokens) / len(tokens), "ended_by_eos": ended, "examples": examples}


def paired(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Differences in diversity from the base at the same prompts, by set of samples, with intervals over the prompts."""
    found = {}
    for name, path in inputs.items():
        prefix = f"sample-{settings['column']}-s{settings['seed']}-"
        if name.startswith(prefix):
            key = name.removeprefix(prefix)
            base = inputs[f"sample-{settings['base']}-s{settings['seed']}-{key}"]
            first, second = ([story["text"] for story in read_samples(source)] for source in (path, base))
            found[key] = diversity_differences(first, second)
    return found


def references(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """The same figures of as many held-out stories: diversity and entropy over draws, the rest of one draw; MAUVE against as many
    others, if there are enough."""
    corpus, number = read_corpus(settings), settings["num_samples"]
    held_out = texts_of.held_out(corpus, corpus.tokenizer)
    texts = draw(held_out, number, 0)
    chosen = set(texts)
    left = [text for text in held_out if text not in chosen]
    training = texts_of.training_texts(corpus, corpus.tokenizer)
    others = left[:number] if len(left) >= number else None
    figures = texts_of.measure(texts, corpus.tokenizer, settings, training, others)
    tokenizer = corpus.tokenizer
    figures["figures"] |= reference_figures(held_out, number, 0) | reference_entropy(held_out, number, tokenizer)
    figures["cut"] |= reference_figures(texts_of.cut(held_out, tokenizer, settings["cut_tokens"]), number, 0)
    if others is None:
        figures["notes"].append(f"MAUVE: {len(held_out)} held-out stories are too few for two sets of {number}")
    lengths = [len(ids) for ids in corpus.tokenizer(texts)["input_ids"]]  # with BOS, as a story's EOS counts too
    judge = texts_of.describe_judge(settings["judge"])
    return figures | {"mean_tokens": sum(lengths) / len(lengths), "ended_by_eos": 1.0, "judge": judge}


def summarise(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """All figures by column and seed, with intervals over seeds and differences from AR."""
    results = {name: result_of(path) for name, path in inputs.items()}
    corpus = read_corpus(settings["corpus"])
    first = [ids[1] for ids in corpus.train.dataset[:]["input_ids"]]
    laws = {DATA: [law_of_ids(first, len(corpus.tokenizer), f"all {len(first):,} training stories")]}
    for name, own in settings["about"].items():
        if name.startswith("first-token") and name in results:
            laws.setdefault(own["column"], []).append(results[name])
    described_laws = described(laws, corpus.tokenizer, settings["number"])
    return summary(settings, results) | {"first_tokens": described_laws}
