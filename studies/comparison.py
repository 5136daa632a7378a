"""The comparison of a trained pair: stories, diversity, likelihood, on equal terms for both arms."""

import json
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers

from arche_mdlm.metrics.diversity import diversity
from arche_mdlm.studies.references import REFERENCE_FIGURES, draw, fingerprint, fitting_stories
from arche_mdlm.studies.stories import Stories, write_stories
from arche_mdlm.training.corpus import SAMPLE_CORPUS
from arche_mdlm.training.data import prepare_data
from arche_mdlm.training.evaluation import Evaluator
from arche_mdlm.training.loading import is_diffusion, load_arm
from arche_mdlm.training.provenance import portable

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

    def __post_init__(self):
        for name in ("num_samples", "batch_size", "num_diffusion_steps", "likelihood_samples"):
            if getattr(self, name) < (2 if name in ("num_samples", "likelihood_samples") else 1):
                raise ValueError(f"{name}={getattr(self, name)} is too small")
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature} must be above 0")


@dataclass
class Arm:
    """One arm of a comparison and everything measured of it."""

    name: str
    model: object
    tokenizer: object
    card: dict | None  # the checkpoint's own training log, if it ships one
    unprompted: Stories | None = None
    prompted: Stories | None = None
    diversity: dict = field(default_factory=dict)
    likelihood: dict = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())


def compare(settings: ComparisonSettings) -> dict:
    """Run the comparison; returns the report (also what goes into `report.json`), with the arms under `"_arms"`.

    Both arms get the same prompts, temperature, seed and number of stories. Raises ValueError for a checkpoint that
    does not load, or two arms whose tokenizers differ.
    """
    started = time.perf_counter()
    arms = [_load("MDLM", settings.mdlm), _load("AR", settings.ar)]
    _check_pair(arms)
    reference = _reference(settings, arms[0].tokenizer, context_length(arms[0].model))
    for arm in arms:
        _write(arm, settings)
        arm.diversity = diversity(arm.unprompted.texts, seed=settings.seed)
        arm.likelihood = _likelihoods(arm, settings)
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
    card = json.loads(log.read_text(encoding="utf-8")) if log.is_file() else None
    return Arm(name, model.eval(), tokenizer, card)


def _check_pair(arms: list[Arm]) -> None:
    mdlm, ar = arms
    if not is_diffusion(mdlm.model) or is_diffusion(ar.model):
        raise ValueError("--mdlm needs a masked diffusion checkpoint and --ar an autoregressive one; are they swapped?")
    if mdlm.tokenizer.get_vocab() != ar.tokenizer.get_vocab():
        raise ValueError("the two checkpoints have different tokenizers; their figures could not be compared")


def context_length(model) -> int:
    return model.generation_config.max_length or model.config.max_position_embeddings


def _write(arm: Arm, settings: ComparisonSettings) -> None:
    kwargs = {"do_sample": True, "temperature": settings.temperature, "top_k": 0, "top_p": 1.0}
    if is_diffusion(arm.model):
        kwargs["num_diffusion_steps"] = settings.num_diffusion_steps
    common = {"seed": settings.seed, "batch_size": settings.batch_size, **kwargs}
    empty = [""] * settings.num_samples
    arm.unprompted = write_stories(arm.model, arm.tokenizer, empty, description=f"{arm.name}, unprompted", **common)
    arm.prompted = write_stories(arm.model, arm.tokenizer, PROMPTS, description=f"{arm.name}, prompted", **common)


def _likelihoods(arm: Arm, settings: ComparisonSettings) -> dict:
    """By corpus: the card's figures (validation split), and the text given as `data` or the shipped sample corpus."""
    result = {}
    if arm.card is not None:
        scores = [entry for entry in arm.card["history"] if "validation_nats" in entry]
        best = arm.card.get("exported") or min(scores, key=lambda entry: entry["validation_nats"])
        result["validation split, from the model card"] = {
            "nats_per_token": best["validation_nats"],
            "standard_error": best["validation_standard_error"],
            "bits_per_byte": best["validation_bits_per_byte"],
        }
    source = settings.data or str(SAMPLE_CORPUS)
    label = f"{Path(source).name}" if settings.data else "shipped sample corpus (written by our own AR model)"
    length = context_length(arm.model)
    rows = prepare_data(source, arm.tokenizer, layout="rows", context_length=length, split="train")
    evaluator = Evaluator(
        rows.dataset,
        length,
        arm.tokenizer.pad_token_id,
        settings.likelihood_samples,
        max_rows=None if settings.data else 100,
    )
    score = evaluator(arm.model)
    result[label] = {
        "nats_per_token": score["validation_nats"],
        "standard_error": score["validation_standard_error"],
        "bits_per_byte": score["validation_bits_per_byte"],
        "stories": len(rows.dataset) if settings.data else min(100, len(rows.dataset)),
    }
    return result


def _reference(settings: ComparisonSettings, tokenizer, context: int) -> dict | None:
    """Figures of real held-out stories at the same number: recomputed from `references`, or the committed ones."""
    if settings.references is not None:
        texts = fitting_stories(settings.references, tokenizer, context)
        figures = diversity(draw(texts, settings.num_samples, settings.seed), seed=settings.seed)
        return {"source": Path(settings.references).name, "sha256": fingerprint(texts), "figures": figures}
    if not REFERENCE_FIGURES.is_file():
        return None
    committed = json.loads(REFERENCE_FIGURES.read_text(encoding="utf-8"))
    figures = committed["figures"].get(str(settings.num_samples))
    return figures and {"source": committed["source"], "sha256": committed["sha256"], "figures": figures}


def _arm_report(arm: Arm) -> dict:
    stories = arm.unprompted.stories
    tokens = sum(story.num_tokens for story in stories)
    return {
        "parameters": arm.parameters,
        "diversity": arm.diversity,
        "likelihood": arm.likelihood,
        "stories_per_second": len(stories) / arm.unprompted.seconds,
        "tokens_per_second": tokens / arm.unprompted.seconds,
        "mean_tokens": tokens / len(stories),
        "ended_by_eos": sum(story.ended for story in stories) / len(stories),
        "unprompted": [story.to_dict() for story in stories],
        "prompted": [story.to_dict() for story in arm.prompted.stories],
    }
