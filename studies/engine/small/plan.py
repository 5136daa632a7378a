"""Settings and jobs that studies of small trainings on subsets of stories share."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.configuration.settings import Preset
from arche_mdlm.studies.engine.command import SUMMARY
from arche_mdlm.studies.engine.estimates import forward_seconds, training_seconds
from arche_mdlm.studies.engine.jobs import Job, Plan
from arche_mdlm.studies.engine.keys import data_hash
from arche_mdlm.studies.engine.settings import check_least
from arche_mdlm.training.arguments import parse_changes
from arche_mdlm.training.models.arms import ARMS

_JOBS = "arche_mdlm.studies.engine.small.subsets"
# .38M parameters, with a vocabulary of 512 entries.
_SHAPE = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 6}


@dataclass(frozen=True, kw_only=True)
class SubsetSettings:
    """What such studies have in common."""

    data: str | None = None
    validation_data: str | None = None
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    positions: int = 20_000_000  # of a training: its steps times its batch
    batch_size: int = 16  # rows
    context_length: int = 128
    vocab_size: int = 512
    evaluations: int = 20  # evenly spaced over the steps
    evaluation_rows: int = 128  # of training, and of each half of the held-out stories
    evaluation_draws: int = 2  # of a bound, a row
    changes: tuple[str, ...] = ()  # KEY=VALUE of the preset, for all trainings

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds={list(self.seeds)} must be different numbers of at least 0")
        least = {"positions": 1, "batch_size": 1, "context_length": 8, "vocab_size": 260, "evaluations": 2, "evaluation_rows": 2,
                 "evaluation_draws": 2}  # fmt: skip
        check_least(self, least)
        if self.data is None:
            raise ValueError("data=None: give the stories with --data FILE")
        if self.steps < self.evaluations:
            raise ValueError(
                f"positions={self.positions} are {self.steps} steps, fewer than evaluations={self.evaluations}"
            )

    @property
    def steps(self) -> int:
        """Of each training."""
        return self.positions // (self.batch_size * self.context_length)


@dataclass(frozen=True, kw_only=True)
class OneSizeSettings(SubsetSettings):
    """Of a study whose subsets all have as many tokens."""

    unique_tokens: int = 1_000_000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, {"unique_tokens": 1000})


_RATES = ("training.learning_rate", "training.muon_learning_rate")  # of AdamW and Muon


def rates_times(settings: SubsetSettings, arm: str, factor: float) -> dict[str, float]:
    """Both optimisers' learning rates, of the preset of an arm with the settings' changes, times `factor`."""
    training = load_preset(f"mini-{arm}", parse_changes(settings.changes)).training
    return {key: factor * getattr(training, key.removeprefix("training.")) for key in _RATES}


def without_rates(changes: Iterable[str]) -> tuple[str, ...]:
    """KEY=VALUE changes but those of learning rates, which would replace the ones that a training is given."""
    return tuple(change for change in changes if change.partition("=")[0] not in _RATES)


def whole_plan(
    settings: SubsetSettings,
    jobs: list[Job],
    trainings: dict[str, dict],
    summarise: str,
    kept: dict[str, Any] | None = None,
) -> Plan:
    """The jobs of subsets and trainings, and the last one, which reads them.

    Args:
        trainings: what the trainings are, by the names of their jobs.
        summarise: the last job's function, as `module:function`.
        kept: more of the last job's settings.
    """
    needs = tuple(job.name for job in jobs)
    own = {"trainings": trainings} | (kept or {})
    last = Job(SUMMARY, "summarise", summarise, own, needs, 5.0, tolerant=True)
    preset = load_preset("mini-mdlm", {"data.source": settings.data})
    return Plan((*jobs, last), data_hash(preset, settings.validation_data))


def subset_job(settings: SubsetSettings, unique_tokens: int, seed: int) -> Job:
    """A random subset of the stories, the same for all trainings of a seed."""
    names = ("data", "validation_data", "vocab_size", "evaluation_rows")
    own = {name: getattr(settings, name) for name in names} | {"unique_tokens": unique_tokens, "seed": seed}
    seconds = 10 + unique_tokens * 2e-5
    return Job(f"subset-{unique_tokens}-s{seed}", "subset", f"{_JOBS}:subset", own, (), seconds)


def training_job(
    settings: SubsetSettings, subset: Job, arm: str, label: str, device: str = "cpu", **training: float | str
) -> Job:
    """A training of an arm ("mdlm", "ar") on a subset: constant learning rate after a warm-up, so that the last step is as any other.

    Args:
        label: sets it apart from the subset's other trainings.
        training: more settings of the preset, by name ("training.weight_decay").
    """
    seed = subset.settings["seed"]
    changes = [*_changes(settings, seed), *(f"{key}={json.dumps(value)}" for key, value in training.items())]
    changes += settings.changes
    preset = load_preset(f"mini-{arm}", parse_changes(changes))
    own = {"preset": f"mini-{arm}", "changes": changes, "resolved": preset.to_dict(), "data_seed": seed,
           "evaluation_rows": settings.evaluation_rows, "evaluation_draws": settings.evaluation_draws}  # fmt: skip
    name = f"train-{label}{subset.name.removeprefix('subset')}"
    return Job(name, "small training", f"{_JOBS}:train", own, (subset.name,), _seconds(settings, preset, arm, device))


def _changes(settings: SubsetSettings, seed: int) -> list[str]:
    every = max(1, settings.steps // settings.evaluations)
    steps = every * settings.evaluations  # the last evaluation is one of the grid
    shape: dict[str, object] = {
        "vocab_size": settings.vocab_size,
        "max_position_embeddings": settings.context_length,
        **_SHAPE,
    }
    course: dict[str, object] = {"max_steps": steps, "batch_size": settings.batch_size, "seed": seed, "short_canvas_share": 0.0, "optimizer": "muon",
              "min_lr_ratio": 1.0, "warmup_steps": min(50, steps), "weight_decay": 0.0, "log_every": every, "eval_every": every,
              "save_every": every, "keep_checkpoints": 1}  # fmt: skip
    found = {f"model.config.{key}": value for key, value in shape.items()}
    found |= {"data.context_length": settings.context_length, "data.vocab_size": settings.vocab_size}
    found |= {f"training.{key}": value for key, value in course.items()}
    return [f"{key}={json.dumps(value)}" for key, value in found.items()]


def _seconds(settings: SubsetSettings, preset: Preset, arm: str, device: str) -> float:
    draws = settings.evaluation_draws if ARMS[arm].is_bound else 1
    forwards = settings.evaluations * 3 * settings.evaluation_rows * draws
    return training_seconds(preset, device) + forward_seconds(preset, device, forwards)
