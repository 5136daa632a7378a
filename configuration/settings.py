"""The settings of a run: model, data and training, as typed objects."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModelSettings:
    """Which model, and the fields of its configuration (`LlamaConfig`, `MDLMConfig` or `GPT2Config`)."""

    architecture: str = "mdlm"
    config: dict[str, Any] = field(default_factory=dict)
    initialisation: str = "default"  # "pytorch" (the paper's) or "local" (attention starts at the neighbours)


@dataclass(frozen=True)
class DataSettings:
    """Where text comes from and how it is cut; lengths in tokens."""

    source: str = "roneneldan/TinyStories"
    config: str | None = None  # of a Hub data set
    weights: tuple[
        float, ...
    ] = ()  # of the sources that `source` names with commas between them, which are interleaved
    stopping: str = "first_exhausted"  # when interleaving ends; "all_exhausted" repeats the shorter sources
    # What a row is: a text, a prompt with its answer, or messages; "auto" goes by the columns that are there.
    format: str = "auto"
    text_column: str = "text"
    template: str | None = None  # of several columns, such as "{title}\n{text}", in place of text_column
    prompt_column: str = "prompt"  # this one and the next may be templates, too
    completion_column: str = "completion"
    messages_column: str = "messages"
    chat_template: str | None = None  # a Jinja file; null: the tokenizer's own
    long_answers: str = "error"  # prompts with answers that do not fit the context; "drop" leaves them out
    tokenizer: str = "bpe"  # "bpe" trains one on the training split; else a folder or Hub id
    vocab_size: int = 4096
    layout: str = "rows"
    context_length: int = 256
    max_tokens: int | None = None
    min_characters: int = 0
    long_documents: str = "drop"  # "chunk" cuts texts longer than the context into rows (layout "rows")
    validation_fraction: float | None = None
    streaming: bool = False
    num_workers: int = 1
    description: str | None = None  # these three are for the model card
    license: str | None = None
    language: str | None = None


@dataclass(frozen=True)
class TrainingSettings:
    """The optimisation; `batch_size` counts rows of the global batch of one optimiser step."""

    objective: str = "low_variance"
    time_sampling: str = "stratified"
    time_window: tuple[float, float] = (0.0, 1.0)  # narrower: less variance, but the loss is not a bound
    # Of the rows of a diffusion arm: a prefix or other positions are given, as in a prompt or a text with gaps.
    given_share: float = 0.0
    # Of uniform noise on the whole canvas: so many first steps read Gaussian latents (Duo's curriculum), whose temperature goes from
    # the first to the second number geometrically; times are such that alpha is within the window.
    curriculum_steps: int | None = None
    curriculum_tau: tuple[float, float] = (1e-3, 1e-3)
    curriculum_alpha: tuple[float, float] = (0.049, 0.945)
    # Of a trained model of uniform noise on the whole canvas: discrete consistency distillation. After so many steps the teacher
    # becomes the student and the distance of their times doubles; alpha is within the window.
    distillation_steps: int | None = None
    distillation_distance: float = 1 / 512
    distillation_alpha: tuple[float, float] = (0.006, 0.999)
    distillation_divergence: str = "backward"
    max_steps: int = 1000
    epochs: float | None = None  # in place of max_steps: so many passes over the training rows
    stop_at_nats: float | None = None  # end at the first evaluation whose validation_nats are at most this
    stop_past_best: float | None = None  # end at the first evaluation whose step is so many times that of the best one
    batch_size: int = 16
    accumulation: int = 1
    optimizer: str = "adamw"  # or "muon" for the layers' matrices, beside AdamW for the rest
    learning_rate: float = 1e-3
    muon_learning_rate: float = 0.02
    schedule: str = "cosine"
    decay_share: float = 0.2  # of max_steps, at the end of "warmup_stable_decay"
    branches: tuple[int, ...] = ()  # lengths of the runs that may branch off this one: their checkpoints are kept
    min_lr_ratio: float = 0.05
    warmup_steps: int = 100
    weight_decay: float = 0.1
    decay_all: bool = False
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = 1.0
    short_canvas_share: float = 0.5
    attention_annealing_steps: int | None = None  # attention opens from causal to full over so many steps
    ema_decay: float | None = None
    mixed_precision: str = "no"
    tf32: bool = True
    length_multiple: int = 1
    length_pool: int = 16
    compile: bool = False
    compile_mode: str = "default"
    eval_every: int = 500
    eval_samples: int = 2
    eval_rows: int | None = None
    eval_train_rows: int | None = 128  # training rows scored at every evaluation, at most eval_rows; null: none
    save_every: int = 500
    keep_checkpoints: int = 2
    log_every: int = 20
    seed: int = 0

    def curriculum_temperature(self, step: int) -> float | None:
        """tau of a step (0-based); None after the end of the curriculum, or without one."""
        if self.curriculum_steps is None or step >= self.curriculum_steps:
            return None
        first, last = self.curriculum_tau
        return first * (last / first) ** (step / max(1, self.curriculum_steps - 1))

    def teacher_distance(self, step: int) -> float:
        """How far before the student's time its teacher's is at a step (0-based) of a distillation."""
        assert self.distillation_steps is not None
        return self.distillation_distance * float(2 ** (step // self.distillation_steps))


@dataclass(frozen=True)
class Preset:
    """One arm of one family, e.g. `mini-mdlm`."""

    name: str
    description: str
    model: ModelSettings
    data: DataSettings
    training: TrainingSettings

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
