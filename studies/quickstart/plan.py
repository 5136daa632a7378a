"""The comparison of a trained pair: stories, diversity, likelihood, on equal terms for both arms, as jobs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arche_mdlm.configuration.devices import default_device
from arche_mdlm.studies.engine.command import SUMMARY
from arche_mdlm.studies.engine.estimates import seconds_of
from arche_mdlm.studies.engine.jobs import Job, Plan
from arche_mdlm.studies.engine.pair import Arm, check_pair
from arche_mdlm.studies.engine.readings.references import (
    REFERENCE_FIGURES,
    committed_figures,
    draw,
    file_hash,
    fingerprint,
    fitting_stories,
)
from arche_mdlm.studies.engine.settings import check_least, check_temperature
from arche_mdlm.studies.quickstart.first_look import gaps_that_fit
from arche_mdlm.training.data.corpus import SAMPLE_CORPUS
from arche_mdlm.training.data.preparing import prepare_data
from arche_mdlm.training.models.arms import arm_of
from arche_mdlm.training.models.cost import training_log
from arche_mdlm.training.models.loading import context_length

COUNTS = ("words", "characters")
_COOLER = 0.7
_COOLER_SAMPLES = 30
_SAMPLE_ROWS = 100  # of the shipped corpus
_JOBS = "arche_mdlm.studies.quickstart.jobs"
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
    """The settings of `arche-mdlm compare`."""

    mdlm: str
    ar: str
    num_samples: int = 200
    temperature: float = 1.0
    num_diffusion_steps: int = 64
    batch_size: int = 50
    seed: int = 0
    references: str | None = None
    data: str | None = None
    likelihood_samples: int = 4
    count: str = "words"  # what the diversity is of

    def __post_init__(self) -> None:
        least = {"num_samples": 2, "batch_size": 1, "num_diffusion_steps": 1, "likelihood_samples": 2, "seed": 0}
        check_least(self, least)
        check_temperature(self)
        if self.count not in COUNTS:
            raise ValueError(f"count={self.count!r} must be one of {', '.join(COUNTS)}")

    @property
    def cooler(self) -> float:
        """The lower temperature that the report sets beside `temperature`."""
        return min(_COOLER, self.temperature)

    @property
    def cooler_samples(self) -> int:
        """Stories an arm at each of these two."""
        return min(_COOLER_SAMPLES, self.num_samples)


def load_pair(settings: ComparisonSettings) -> dict[str, Arm]:
    """The two arms, on a GPU if there is one; as `check_pair`."""
    return check_pair(settings.mdlm, settings.ar, default_device())


def build_plan(settings: ComparisonSettings) -> Plan:
    """Both arms get the same prompts, temperature, seed and number of stories.

    Raises ValueError or FileNotFoundError for a checkpoint that does not load, two arms whose tokenizers differ, a context
    that is too short for the prompts, or data that cannot be read.
    """
    arms = load_pair(settings)
    _check_context(arms)
    reference, figures = _reference(settings, arms["MDLM"])
    jobs = [job for name, arm in arms.items() for job in _arm_jobs(settings, name, arm)]
    jobs += reference
    jobs.append(_first_tokens(settings, arms))
    jobs += _mdlm_alone(settings, arms)
    own = {
        "arms": {name: {"arm": arm.to_dict(), "card": card_figures(arm.source)} for name, arm in arms.items()},
        "corpus": Path(settings.data).name if settings.data else "shipped sample corpus (written by our own AR model)",
        "reference": figures,
    }
    jobs.append(Job(SUMMARY, "summarise", f"{_JOBS}:summarise", own, tuple(job.name for job in jobs), 1.0))
    return Plan(tuple(jobs))


def _check_context(arms: dict[str, Arm]) -> None:
    for name, arm in arms.items():
        model, tokenizer = arm.load()
        longest = max(len(ids) for ids in tokenizer(list(PROMPTS))["input_ids"])
        if context_length(model) <= longest:
            raise ValueError(f"{name} has a context of {context_length(model)} tokens; the prompts need {longest + 1}")


def _arm_jobs(settings: ComparisonSettings, name: str, arm: Arm) -> Iterator[Job]:
    model, tokenizer = arm.load()
    options = {"do_sample": True, "temperature": settings.temperature, "top_k": 0, "top_p": 1.0}
    own_arm = arm_of(model)
    options |= own_arm.step_options(settings.num_diffusion_steps)
    forwards = own_arm.forwards_of_text(settings.num_diffusion_steps)
    common = {"arm": arm.to_dict(), "seed": settings.seed, "batch_size": settings.batch_size, "options": options}
    few = [""] * settings.cooler_samples
    sets = {"unprompted": [""] * settings.num_samples, "cooler": few, "prompted": list(PROMPTS)}
    for kind, prompts in sets.items():
        own = common | {"prompts": prompts, "description": f"{name}, {kind}"}
        if kind != "unprompted":
            own["options"] = options | {"temperature": settings.cooler}
        seconds = seconds_of(model, arm.device, len(prompts) * forwards * context_length(model))
        yield Job(f"{name}-{kind}", "stories", f"{_JOBS}:stories", own, seconds=seconds)
    data = settings.data or str(SAMPLE_CORPUS)
    rows = prepare_data(data, tokenizer, layout="rows", context_length=context_length(model), split="train")
    count = len(rows.dataset) if settings.data else min(_SAMPLE_ROWS, len(rows.dataset))
    own = {"arm": arm.to_dict(), "data": data, "sha256": rows.summary.sha256, "stories": count,
           "num_samples": settings.likelihood_samples}  # fmt: skip
    draws = own_arm.forwards_of_score(settings.likelihood_samples, model.config)
    seconds = seconds_of(model, arm.device, count * draws * context_length(model))
    yield Job(f"{name}-likelihood", "likelihood", f"{_JOBS}:likelihood", own, seconds=seconds)
    own = {"seed": settings.seed, "count": settings.count}
    yield Job(f"{name}-diversity", "diversity", f"{_JOBS}:diversity_of", own, (f"{name}-unprompted",), 3.0)


def _first_tokens(settings: ComparisonSettings, arms: dict[str, Arm]) -> Job:
    """Depends on the content of the file of held-out stories, or of the committed one."""
    source = settings.references
    own = {"arms": {name: arm.to_dict() for name, arm in arms.items()}, "source": source, "number": settings.num_samples,
           "sha256": file_hash(Path(source) if source else REFERENCE_FIGURES)}  # fmt: skip
    return Job("first-tokens", "first tokens", f"{_JOBS}:first_tokens", own, seconds=2.0)


def _mdlm_alone(settings: ComparisonSettings, arms: dict[str, Arm]) -> Iterator[Job]:
    """Gaps that it fills; and, as the twin reads them, its texts at both temperatures."""
    own = {"arm": arms["MDLM"].to_dict(), "texts": gaps_that_fit(*arms["MDLM"].load()), "temperature": settings.cooler,
           "seed": settings.seed}  # fmt: skip
    yield Job("MDLM-gaps", "gaps", f"{_JOBS}:gaps", own, seconds=2.0)
    temperatures = {"unprompted": settings.temperature, "cooler": settings.cooler}
    own = {"twin": arms["AR"].to_dict(), "number": settings.cooler_samples, "count": settings.count, "seed": settings.seed,
           "temperatures": temperatures}  # fmt: skip
    needs = tuple(f"{name}-{kind}" for name in arms for kind in temperatures)
    yield Job("temperatures", "temperatures", f"{_JOBS}:temperatures", own, needs, 6.0)


def card_figures(source: str) -> dict | None:
    """A checkpoint's own likelihood: of the exported weights, else of the best evaluation; None without any."""
    card = training_log(source) or {}
    scores = [entry for entry in card.get("history", ()) if "validation_nats" in entry]
    best = card.get("exported") or min(scores, key=lambda entry: entry["validation_nats"], default=None)
    return best and {
        "nats_per_token": best["validation_nats"],
        "standard_error": best["validation_standard_error"],
        "bits_per_byte": best["validation_bits_per_byte"],
    }


def _reference(settings: ComparisonSettings, arm: Arm) -> tuple[list[Job], dict | None]:
    """Real held-out stories at the same number: a job that measures those of `references`, or the committed figures."""
    if settings.references is not None:
        model, tokenizer = arm.load()
        texts = fitting_stories(settings.references, tokenizer, context_length(model))
        draw(texts, settings.num_samples, settings.seed)  # are there enough?
        own = {"source": settings.references, "sha256": fingerprint(texts), "arm": arm.to_dict(),
               "number": settings.num_samples, "seed": settings.seed, "count": settings.count}  # fmt: skip
        return [Job("reference", "diversity", f"{_JOBS}:reference", own, seconds=3.0)], None
    return [], committed_figures(settings.num_samples) if settings.count == "words" else None
