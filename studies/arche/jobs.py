"""The jobs of the paper's protocol: validation as the paper has it, likelihoods, samples of each factor's levels, their metrics."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from arche_mdlm import available_samplers, register_sampler
from arche_mdlm.configuration.settings import TrainingSettings
from arche_mdlm.metrics.diversity import diversity
from arche_mdlm.metrics.tokens.bigram import fit_bigram
from arche_mdlm.ordered_samplers_mdlm import ArcheSampler
from arche_mdlm.precision_mdlm import finest
from arche_mdlm.studies.arche.factors import LAYOUTS
from arche_mdlm.studies.arche.settings import ArcheSettings
from arche_mdlm.studies.arche.summary import summary
from arche_mdlm.studies.engine.inputs import SAMPLES, read_samples, result_of
from arche_mdlm.studies.engine.readings.floors import median_words
from arche_mdlm.studies.engine.trainings import load_checkpoint, read_corpus
from arche_mdlm.training.batches.batching import BatchPlanner
from arche_mdlm.training.batches.step_batches import StepBatches
from arche_mdlm.training.data.corpus import Corpus, row_lengths
from arche_mdlm.training.loop.evaluation import some_rows
from arche_mdlm.training.models.arms import arm_of
from arche_mdlm.writing.sample_file import SampleFile
from arche_mdlm.writing.stories import own_seed

VALIDATION_BATCHES = 50
_LIKELIHOOD_SEED = 20260322  # the same rows and masks for every checkpoint
PLAIN = "arche_without_penalty"


def plain_sampler() -> str:
    """Name of the released sampler without its repetition penalty, registered at the first call."""
    if PLAIN not in available_samplers():

        @register_sampler(PLAIN)
        class PlainArcheSampler(ArcheSampler):
            """`arche` with every logit divided by 1."""

            @staticmethod
            def _penalty(tokens: torch.Tensor) -> torch.Tensor:
                return torch.ones(tokens.shape, dtype=finest(tokens.device), device=tokens.device)

    return PLAIN


def check_data(settings: ArcheSettings) -> None:
    """Before any job: ValueError for data that gives no rows, no windows, or none held out."""
    for layout in LAYOUTS:
        preset = settings.arm("ar", layout, settings.all_seeds[0])
        read_corpus({"preset": preset.to_dict(), "validation_data": settings.validation_data})


def validation(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """The arm's own training loss on 50 held-out batches, of the best and the last checkpoint: AR's nats a token, MDLM's
    masked mean at one draw of times and masks. The two are not comparable (docs/formulas.md)."""
    losses = {}
    for checkpoint in ("best", "last"):
        model, tokenizer = load_checkpoint(settings | {"checkpoint": checkpoint}, inputs)
        losses[checkpoint] = _loss(model, tokenizer, read_corpus(settings, tokenizer), settings["preset"])
    return {"loss_best": losses["best"], "loss_last": losses["last"]}


@torch.no_grad()
def _loss(model: Any, tokenizer: PreTrainedTokenizerBase, corpus: Corpus, preset: dict) -> float:
    training = TrainingSettings(**preset["training"])
    rows = corpus.validation.dataset
    size = min(training.batch_size, len(rows))
    training = TrainingSettings(**preset["training"] | {"batch_size": size, "accumulation": 1})
    planner = BatchPlanner(
        row_lengths(rows), size, preset["data"]["context_length"], training.seed, 0.0, corpus.leading_bos
    )
    batches = StepBatches(rows, planner, training, model.config, tokenizer.pad_token_id)
    count, total = min(VALIDATION_BATCHES, planner.batches_per_epoch), 0.0
    one = torch.ones((), device=model.device)
    for step in range(count):
        batch = batches[step]
        given = {name: value.to(model.device) for name, value in batch["inputs"][0].items()}
        total += model(**given, num_items_in_batch=one).loss.item() / batch["denominator"]
    return total / count


def likelihood(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Of the best checkpoint on some held-out rows or windows, their first token given: AR's NLL, MDLM's bound, nats a token."""
    model, tokenizer = load_checkpoint(settings | {"checkpoint": "best"}, inputs)
    rows = _held_out(read_corpus(settings, tokenizer), settings["likelihood_rows"])
    arm = arm_of(model)
    score = arm.score(
        model, rows, canvas_length=settings["preset"]["data"]["context_length"], pad_token_id=tokenizer.pad_token_id,
        num_given=[1] * len(rows), num_samples=settings["num_samples"], seed=_LIKELIHOOD_SEED,
    )  # fmt: skip
    return {"nats_per_token": score.nats_per_token, "standard_error": score.standard_error, "bound": arm.is_bound,
            "rows": len(rows)}  # fmt: skip


def bigram(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """The floor: an interpolated bigram of the training rows or windows, on the same held-out ones, their first token given."""
    corpus = read_corpus(settings)
    model = fit_bigram(corpus.train.dataset.with_format("numpy", dtype=np.int32)[:]["input_ids"], len(corpus.tokenizer))
    rows = _held_out(corpus, settings["likelihood_rows"])
    return {"nats_per_token": model.nats_per_token(rows), "weight": model.weight, "rows": len(rows)}


def _held_out(corpus: Corpus, number: int) -> Any:
    return some_rows(corpus.validation.dataset, number, _LIKELIHOOD_SEED)[:]["input_ids"]


def sample(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Texts of one cell of the factor table, in `samples.jsonl`."""
    model, tokenizer = load_checkpoint(settings | {"checkpoint": "best"}, inputs)
    starts = _starts(settings, tokenizer, inputs)
    size = settings["batch_size"]
    file = SampleFile(folder / SAMPLES, len(starts), size, {"batch_size": size})  # the folder's name has the rest
    for batch in file.begin() or []:
        part = torch.tensor([starts[i] for i in batch], dtype=torch.long, device=model.device)
        texts = _write(model, tokenizer, part, batch.start, settings)
        file.append([{"index": i, "text": text} for i, text in zip(batch, texts, strict=True)])
    if not file.path.exists():
        file.finish()
    return {"texts": len(starts)}


def _starts(settings: dict, tokenizer: PreTrainedTokenizerBase, inputs: dict[str, Path]) -> list[list[int]]:
    """Tokens that each sample begins with: a BOS with rows; AR's "Once", or its free first token with windows."""
    number, rows = settings["num_samples"], settings["layout"] == "rows"
    start = [tokenizer.bos_token_id] if rows else []
    if settings["variant"] == "once":
        start = start + tokenizer("Once", add_special_tokens=False)["input_ids"]
    if start or settings["arm"] == "mdlm":
        return [start] * number
    windows = read_corpus(settings, tokenizer).train.dataset
    chosen = np.random.default_rng([settings["seed"], 9]).integers(len(windows), size=number)
    return [[ids[0]] for ids in windows[chosen.tolist()]["input_ids"]]


def _write(
    model: Any, tokenizer: PreTrainedTokenizerBase, starts: torch.Tensor, first: int, settings: dict
) -> list[str]:
    """Texts of `tokens` tokens, the BOS not counted, from starts (B, P), cut at EOS."""
    rows = settings["layout"] == "rows"
    context = settings["preset"]["data"]["context_length"]
    width = min(settings["tokens"] + rows, context)
    options = {"do_sample": True, "temperature": settings["temperature"], "top_k": 0, "top_p": 1.0}
    arm = arm_of(model)
    if arm.denoises:
        masks = torch.full((len(starts), width - starts.shape[1]), tokenizer.mask_token_id, device=starts.device)
        starts = torch.cat([starts, masks], dim=1)
        sampler = "arche" if settings["variant"] == "penalty" else plain_sampler()
        options |= {"max_new_tokens": 0, "sampler": sampler, **arm.step_options(settings["num_diffusion_steps"])}
    else:
        options |= {"max_length": width}
    inputs = {"input_ids": starts, "attention_mask": torch.ones_like(starts)}
    seeds = [own_seed(settings["seed"], first + index) for index in range(len(starts))]
    sequences = arm.generate(model, inputs, seeds, options).sequences
    return [_text(ids[int(rows) :], tokenizer) for ids in sequences.tolist()]


def _text(ids: list[int], tokenizer: Any) -> str:
    if tokenizer.eos_token_id in ids:
        ids = ids[: ids.index(tokenizer.eos_token_id)]
    return tokenizer.decode(ids, skip_special_tokens=True)


def metrics(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """As the paper's code has them: Self-BLEU of 200 texts against 50 each, the forced "Once" counted."""
    (source,) = inputs.values()
    texts = [story["text"] for story in read_samples(source)]
    if not any(text.split() for text in texts):
        raise ValueError(f"all {len(texts)} texts are empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # few texts: their number is in the report
        figures = diversity(texts, protocol="arche")
    found = {key: list(value) if isinstance(value, tuple) else value for key, value in figures.items()}
    return found | {"median_words": median_words(texts)}


def summarise(settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """Cells with their figures, trainings, losses and likelihoods, and what is marked."""
    return summary(settings, {name: result_of(path) for name, path in inputs.items()})
