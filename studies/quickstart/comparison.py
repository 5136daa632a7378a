"""The comparison of a trained pair: stories, diversity, likelihood, on equal terms for both arms."""

import hashlib
import json
import math
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers

from arche_mdlm.metrics.diversity import diversity, unsplit_share
from arche_mdlm.studies.engine.keys import code_hash
from arche_mdlm.studies.engine.references import REFERENCE_FIGURES, draw, fingerprint, fitting_stories
from arche_mdlm.studies.quickstart.report import FILES
from arche_mdlm.training.checkpointing import write_json_atomically
from arche_mdlm.training.corpus import SAMPLE_CORPUS
from arche_mdlm.training.data import PreparedData, prepare_data
from arche_mdlm.training.evaluation import Evaluator
from arche_mdlm.training.loading import is_diffusion, load_arm
from arche_mdlm.training.own_files import OutputFolder, check_writable
from arche_mdlm.training.provenance import portable
from arche_mdlm.writing.checkpoint_hash import checkpoint_hash
from arche_mdlm.writing.sample_file import SampleFile
from arche_mdlm.writing.stories import Stories, write_stories

PARTS = "parts"  # of the output's folder: what is done so far
COUNTS = ("words", "characters")
_SAMPLE_ROWS = 100  # of the shipped corpus
PROMPTS = (
    "Once upon a time, there was a little",
    "One day, a boy named Tim",
    "Lily and her mom went to the",
    "The big dog was sad because",
    "It was a sunny day and the children",
    "A small bird wanted to",
    "Tom found a shiny key in the",
    "\"I want to help,\" said the",
)  # fmt: skip


@dataclass(frozen=True)
class ComparisonSettings:
    """What `arche-mdlm compare` is asked for."""

    mdlm: str
    ar: str
    output: Path
    num_samples: int = 200
    temperature: float = 1.0
    num_diffusion_steps: int = 64
    batch_size: int = 50
    seed: int = 0
    references: str | None = None
    data: str | None = None
    likelihood_samples: int = 4
    count: str = "words"  # what the diversity is of

    def __post_init__(self):
        least = {"num_samples": 2, "batch_size": 1, "num_diffusion_steps": 1, "likelihood_samples": 2, "seed": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {value}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature} must be above 0")
        if self.count not in COUNTS:
            raise ValueError(f"count={self.count!r} must be one of {', '.join(COUNTS)}")


@dataclass
class Arm:
    """One arm of a comparison and everything measured of it."""

    name: str
    model: object
    tokenizer: object
    checkpoint: str  # its hash
    card: dict | None  # the checkpoint's own training log, if it ships one
    unprompted: Stories | None = None
    prompted: Stories | None = None
    diversity: dict | None = None  # None: every text is empty
    likelihood: dict = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())


def compare(settings: ComparisonSettings) -> dict:
    """Run the comparison; returns the report (also what goes into `report.json`), with the arms under `"_arms"`.

    Both arms get the same prompts, temperature, seed and number of stories. What is written is kept in `parts/` of the
    output as it is done: stories a batch at a time, likelihoods one by one. The same comparison again goes on from there.

    Raises, before any story is written, ValueError or FileNotFoundError for a checkpoint that does not load, two arms
    whose tokenizers differ, data that cannot be read, or an output that cannot be written or is somebody else's.
    """
    started = time.perf_counter()
    OutputFolder(settings.output, FILES).check()
    check_writable(settings.output / PARTS)
    arms = [_load("MDLM", settings.mdlm), _load("AR", settings.ar)]
    _check_pair(arms)
    reference = _reference(settings, arms[0].tokenizer, context_length(arms[0].model))
    held_out = [_held_out(arm, settings) for arm in arms]
    for arm, rows in zip(arms, held_out, strict=True):
        _write(arm, settings)
        texts = arm.unprompted.texts
        arm.diversity = _diversity(texts, settings) if any(text.split() for text in texts) else None
        arm.likelihood = _likelihoods(arm, settings, rows)
    report = {
        "settings": portable(
            {key: str(value) if isinstance(value, Path) else value for key, value in vars(settings).items()}
        ),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""),
        "arms": {arm.name: _arm_report(arm) for arm in arms},
        "reference": reference,
    }
    report["seconds"] = time.perf_counter() - started
    report["_arms"] = arms
    return report


def _load(name: str, folder: str) -> Arm:
    model, tokenizer = load_arm(folder)
    if torch.cuda.is_available():
        model = model.to("cuda")
    log = Path(folder) / "training_log.json"
    try:
        card = json.loads(log.read_text(encoding="utf-8")) if log.is_file() else None
    except ValueError as error:
        raise ValueError(f"{log} is damaged: {error}") from error
    return Arm(name, model.eval(), tokenizer, checkpoint_hash(folder, model.config), card)


def _check_pair(arms: list[Arm]) -> None:
    mdlm, ar = arms
    if not is_diffusion(mdlm.model) or is_diffusion(ar.model):
        raise ValueError("--mdlm needs a masked diffusion checkpoint and --ar an autoregressive one; are they swapped?")
    if mdlm.tokenizer.get_vocab() != ar.tokenizer.get_vocab():
        raise ValueError("the two checkpoints have different tokenizers; their figures could not be compared")
    longest = max(len(ids) for ids in mdlm.tokenizer(list(PROMPTS))["input_ids"])
    for arm in arms:
        if context_length(arm.model) <= longest:
            raise ValueError(
                f"{arm.name} has a context of {context_length(arm.model)} tokens; the prompts need {longest + 1}"
            )


def context_length(model) -> int:
    return model.generation_config.max_length or model.config.max_position_embeddings


def _write(arm: Arm, settings: ComparisonSettings) -> None:
    kwargs = {"do_sample": True, "temperature": settings.temperature, "top_k": 0, "top_p": 1.0}
    if is_diffusion(arm.model):
        kwargs["num_diffusion_steps"] = settings.num_diffusion_steps
    arm.unprompted = _stories(arm, settings, "unprompted", ("",) * settings.num_samples, kwargs)
    arm.prompted = _stories(arm, settings, "prompted", PROMPTS, kwargs)


def _stories(arm: Arm, settings: ComparisonSettings, kind: str, prompts: tuple[str, ...], kwargs: dict) -> Stories:
    """Those in `parts/`, and what is still missing there."""
    about = {"checkpoint": arm.checkpoint, "prompts": prompts, "seed": settings.seed, "device": arm.model.device.type,
             "code": code_hash("arche_mdlm.writing.stories"), **kwargs}  # fmt: skip
    if not is_diffusion(arm.model):
        about["batch_size"] = settings.batch_size  # one random stream a batch
    path = _part(settings, f"{arm.name}-{kind}", about, ".jsonl")
    return write_stories(
        arm.model, arm.tokenizer, prompts, description=f"{arm.name}, {kind}", seed=settings.seed,
        batch_size=settings.batch_size, file=SampleFile(path, len(prompts), settings.batch_size, about), **kwargs,
    )  # fmt: skip


def _part(settings: ComparisonSettings, name: str, about: dict, suffix: str) -> Path:
    """Where a result that depends on `about` is kept: other settings have another file, so none is ever replaced."""
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    return settings.output / PARTS / f"{name}-{key}{suffix}"


def _held_out(arm: Arm, settings: ComparisonSettings) -> PreparedData:
    """The text given as `data`, or the shipped sample corpus, in the arm's tokens."""
    return prepare_data(
        settings.data or str(SAMPLE_CORPUS),
        arm.tokenizer,
        layout="rows",
        context_length=context_length(arm.model),
        split="train",
    )


def _likelihoods(arm: Arm, settings: ComparisonSettings, rows: PreparedData) -> dict:
    """By corpus: the card's figures (validation split), and the text given as `data` or the shipped sample corpus."""
    result = {}
    if best := _card_figures(arm.card):
        result["validation split, from the model card"] = {
            "nats_per_token": best["validation_nats"],
            "standard_error": best["validation_standard_error"],
            "bits_per_byte": best["validation_bits_per_byte"],
        }
    label = f"{Path(settings.data).name}" if settings.data else "shipped sample corpus (written by our own AR model)"
    count = len(rows.dataset) if settings.data else min(_SAMPLE_ROWS, len(rows.dataset))
    about = {"checkpoint": arm.checkpoint, "data": rows.summary.sha256, "count": count, "device": arm.model.device.type,
             "samples": settings.likelihood_samples, "code": code_hash("arche_mdlm.training.evaluation")}  # fmt: skip
    path = _part(settings, f"{arm.name}-likelihood", about, ".json")
    if not path.is_file():
        evaluator = Evaluator(
            rows.dataset, context_length(arm.model), arm.tokenizer.pad_token_id, settings.likelihood_samples, count
        )
        score = evaluator(arm.model)
        found = {
            "nats_per_token": score["validation_nats"],
            "standard_error": score["validation_standard_error"],
            "bits_per_byte": score["validation_bits_per_byte"],
            "stories": count,
        }
        write_json_atomically(path, found)
    result[label] = json.loads(path.read_text(encoding="utf-8"))
    return result


def _card_figures(card: dict | None) -> dict | None:
    """Of the exported weights, else of the best evaluation; None without any."""
    scores = [entry for entry in (card or {}).get("history", ()) if "validation_nats" in entry]
    return (card or {}).get("exported") or min(scores, key=lambda entry: entry["validation_nats"], default=None)


def _reference(settings: ComparisonSettings, tokenizer, context: int) -> dict | None:
    """Figures of real held-out stories at the same number: recomputed from `references`, or the committed ones."""
    if settings.references is not None:
        texts = fitting_stories(settings.references, tokenizer, context)
        figures = _diversity(draw(texts, settings.num_samples, settings.seed), settings)
        return {"source": Path(settings.references).name, "sha256": fingerprint(texts), "figures": figures}
    if settings.count != "words" or not REFERENCE_FIGURES.is_file():
        return None
    committed = json.loads(REFERENCE_FIGURES.read_text(encoding="utf-8"))
    figures = committed["figures"].get(str(settings.num_samples))
    return figures and {"source": committed["source"], "sha256": committed["sha256"], "figures": figures}


def _diversity(texts: list[str], settings: ComparisonSettings) -> dict:
    return diversity(texts, seed=settings.seed, tokenizer=settings.count)


def _arm_report(arm: Arm) -> dict:
    stories = arm.unprompted.stories
    tokens = sum(story.num_tokens for story in stories)
    return {
        "parameters": arm.parameters,
        "diversity": arm.diversity,
        "unsplit_share": unsplit_share(arm.unprompted.texts),
        "likelihood": arm.likelihood,
        "stories_per_second": len(stories) / arm.unprompted.seconds,
        "tokens_per_second": tokens / arm.unprompted.seconds,
        "mean_tokens": tokens / len(stories),
        "ended_by_eos": sum(story.ended for story in stories) / len(stories),
        "unprompted": [story.to_dict() for story in stories],
        "prompted": [story.to_dict() for story in arm.prompted.stories],
    }
