"""What a training run is asked, and how it ended: the types of `run.run`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEFAULT_PRESET = "quickstart-mdlm"
SAVE_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class TrainingRequest:
    """A training run, before anything is read.

    Args:
        preset: a name or a YAML file; None: the quickstart's, with `resume` that of the run which goes on.
        changes: of the preset, by key (`{"training.max_steps": 10, "data.source": "stories.jsonl"}`).
        validation_data: a file with the held-out text; None: the source's own split.
        output_dir: where checkpoints and logs go; None: runs/PRESET.
        init_from: a checkpoint folder or repository to fine-tune.
        resume: go on from the newest checkpoint in `output_dir`, if there is one.
        branch_from: a longer run of schedule warmup_stable_decay, to be left while its rate is at its peak.
        allow_changes: go on although settings or data are not those of the stored run.
        overwrite: start afresh in an `output_dir` that holds a run, whose checkpoints are deleted.
        save_dtype: of the final model, "float32" or "bfloat16".
        push_to_hub: the repository that gets the final model.
        hub_private: that repository is private.
        push_checkpoints: it gets each checkpoint, too, as soon as that is written.
        report_to: trackers that Accelerate knows, by name.
        stop_after: stop, and save, after so many steps of this session.
        command: the command line that asks for this, for the run's record and its card; empty where a program asks.

    Raises:
        ValueError: for a `save_dtype` or a `stop_after` that is not allowed, or options of the Hub without a repository.
    """

    preset: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    validation_data: str | None = None
    output_dir: Path | None = None
    init_from: str | None = None
    resume: bool = False
    branch_from: Path | None = None
    allow_changes: bool = False
    overwrite: bool = False
    save_dtype: str = "float32"
    push_to_hub: str | None = None
    hub_private: bool = False
    push_checkpoints: bool = False
    report_to: tuple[str, ...] = ("tensorboard",)
    stop_after: int | None = None
    command: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.save_dtype not in SAVE_DTYPES:
            raise ValueError(f"--save_dtype={self.save_dtype!r} must be one of {', '.join(SAVE_DTYPES)}")
        if self.stop_after is not None and self.stop_after < 1:
            raise ValueError(f"--stop_after={self.stop_after} must be at least 1")
        for name in ("hub_private", "push_checkpoints"):
            if getattr(self, name) and not self.push_to_hub:
                raise ValueError(f"--{name} needs --push_to_hub REPO")


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Args:
        output_dir: has the checkpoints, and the final model of a complete run in `final/`.
        step: the last step that was made.
        complete: whether all steps have been made.
        interrupted: whether a signal stopped the run; it is saved.
    """

    output_dir: Path
    step: int
    complete: bool
    interrupted: bool
