"""Presets: model, data and training settings of a run, as typed objects read from YAML."""

import difflib
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

PRESET_FOLDER = Path(__file__).parent / "presets"
ARCHITECTURES = ("mdlm", "llama", "gpt2")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
OBJECTIVES = ("nelbo", "low_variance", "masked_mean", "next_token")


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
    text_column: str = "text"
    tokenizer: str = "bpe"  # "bpe" trains one on the training split; else a folder or Hub id
    vocab_size: int = 4096
    layout: str = "rows"
    context_length: int = 256
    max_tokens: int | None = None
    min_characters: int = 0
    validation_fraction: float | None = None
    streaming: bool = False
    num_workers: int = 1


@dataclass(frozen=True)
class TrainingSettings:
    """The optimisation; `batch_size` counts rows of the global batch of one optimiser step."""

    objective: str = "low_variance"
    time_sampling: str = "stratified"
    max_steps: int = 1000
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
    save_every: int = 500
    keep_checkpoints: int = 2
    log_every: int = 20
    seed: int = 0


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


def available_presets() -> list[str]:
    """Names that `load_preset` knows: `family-arm` for every family file."""
    return [f"{path.stem}-{arm}" for path in sorted(PRESET_FOLDER.glob("*.yaml")) for arm in _read(path)["arms"]]


def load_preset(name: str, overrides: dict[str, Any] | None = None) -> Preset:
    """Read a preset by name (`mini-mdlm`; a family's name alone means its `mdlm` arm) or from `FILE.yaml`.

    Args:
        overrides: `{"training.max_steps": 10, "model.config.hidden_size": 64}`.

    Raises:
        ValueError: for a name that does not exist (the nearest one is suggested), an unknown key or a bad value.
    """
    path, arm = _locate(name)
    family = _read(path)
    if arm not in family["arms"]:
        raise ValueError(f"preset={name!r}: {path.name} has no arm {arm!r}, only {', '.join(family['arms'])}")
    merged = _merge({key: family.get(key, {}) for key in ("model", "data", "training")}, family["arms"][arm] or {})
    for key, value in (overrides or {}).items():
        if value is not None:
            _set(merged, key, value)
    preset = Preset(
        name=f"{path.stem}-{arm}",
        description=family.get("description", ""),
        model=_build(ModelSettings, merged["model"], "model"),
        data=_build(DataSettings, merged["data"], "data"),
        training=_build(TrainingSettings, merged["training"], "training"),
    )
    validate(preset)
    return preset


def validate(preset: Preset) -> None:
    """Check everything that can be checked before data is touched; ValueError names argument, value and choices."""
    model, data, training = preset.model, preset.data, preset.training
    _one_of("model.architecture", model.architecture, ARCHITECTURES)
    _one_of("model.initialisation", model.initialisation, ("default", "pytorch", "local"))
    _one_of("data.layout", data.layout, ("rows", "packed", "windows"))
    _one_of("training.objective", training.objective, OBJECTIVES)
    _one_of("training.time_sampling", training.time_sampling, ("stratified", "uniform"))
    _one_of("training.optimizer", training.optimizer, ("adamw", "muon"))
    _one_of("training.schedule", training.schedule, ("cosine", "warmup_stable_decay"))
    _one_of("training.mixed_precision", training.mixed_precision, ("no", "bf16", "fp16"))
    _one_of("training.compile_mode", training.compile_mode, COMPILE_MODES)
    if (training.objective == "next_token") == (model.architecture == "mdlm"):
        raise ValueError(
            f"training.objective={training.objective!r} does not fit model.architecture={model.architecture!r}: "
            "next_token is for llama and gpt2, the others for mdlm"
        )
    for name in ("max_steps", "batch_size", "accumulation", "eval_every", "save_every", "log_every", "eval_samples",
                 "length_multiple", "length_pool"):  # fmt: skip
        if getattr(training, name) < 1:
            raise ValueError(f"training.{name}={getattr(training, name)} must be at least 1")
    for name in ("learning_rate", "muon_learning_rate"):
        if getattr(training, name) <= 0:
            raise ValueError(f"training.{name}={getattr(training, name)} must be above 0")
    if not 0 < training.decay_share <= 1:
        raise ValueError(f"training.decay_share={training.decay_share} must be above 0 and at most 1")
    if training.branches and training.schedule != "warmup_stable_decay":
        raise ValueError(
            "training.branches needs training.schedule=warmup_stable_decay: a branch leaves at its peak rate"
        )
    if not 0 <= training.short_canvas_share <= 1:
        raise ValueError(f"training.short_canvas_share={training.short_canvas_share} must be in [0, 1]")


def _locate(name: str) -> tuple[Path, str]:
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ValueError(f"preset={name!r} is no file")
        return Path(name), "mdlm"
    for path in PRESET_FOLDER.glob("*.yaml"):
        if name == path.stem:
            return path, "mdlm"
        if name.startswith(path.stem + "-") and name[len(path.stem) + 1 :] in _read(path)["arms"]:
            return path, name[len(path.stem) + 1 :]
    known = available_presets()
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"preset={name!r} is not one of {', '.join(known)}{hint}")


def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _merge(base: dict, changes: dict) -> dict:
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = _merge(merged.get(key) or {}, value) if isinstance(value, dict) else value
    return merged


def _set(tree: dict, dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[last] = value


def _build(cls, values: dict, section: str):
    known = {f.name: f for f in fields(cls)}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{section}.{key} is not a setting: {', '.join(known)}{hint}")
        default = known[key].default
        if not (value is None or default is None or default is MISSING or _fits(value, default)):
            raise ValueError(f"{section}.{key}={value!r} must be a {type(default).__name__}, such as {default!r}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return cls(**values)


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    return isinstance(value, (list, tuple) if isinstance(default, tuple) else type(default))


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}{hint}")
