"""Presets: model, data and training settings of a run, as typed objects read from YAML."""

import difflib
import math
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from arche_mdlm.configuration.model_config import check_model
from arche_mdlm.configuration.templates import parts_of

PRESET_FOLDER = Path(__file__).parent / "presets"
ARCHITECTURES = ("mdlm", "llama", "gpt2")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
# The noise of each family that `model.config.diffusion` names, and the objectives that go with a noise.
NOISES = {"masked": "masked", "block": "masked", "uniform": "uniform", "uniform_block": "uniform", "eso": "masked"}
WHOLE_CANVAS = ("masked", "uniform")  # families in which every position sees all
NOISE_OBJECTIVES = {
    "masked": ("nelbo", "low_variance", "masked_mean"),
    "uniform": ("nelbo", "converted", "resampled"),
}
OBJECTIVES = tuple(dict.fromkeys([name for names in NOISE_OBJECTIVES.values() for name in names] + ["next_token"]))
LARGEST_TEMPERATURE = 0.02  # of the curriculum: above it the latents that are not drawn have a weight
DIVERGENCES = ("backward", "forward")  # of student and teacher
LONG_DOCUMENTS = ("drop", "chunk")
FORMATS = ("auto", "text", "prompt", "messages")
LONG_ANSWERS = ("error", "drop")
STOPPING = ("first_exhausted", "all_exhausted")


class _Null:
    """`null` asked for by name (`--set data.max_tokens=null`); a plain None changes nothing."""

    def __repr__(self) -> str:
        return "null"


NULL = _Null()


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
    time_window: tuple[float, float] = (0.0, 1.0)  # narrower: a loss of less variance that is no bound
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
    save_every: int = 500
    keep_checkpoints: int = 2
    log_every: int = 20
    seed: int = 0

    def curriculum_temperature(self, step: int) -> float | None:
        """tau of a step (0-based); None where the curriculum is over, or there is none."""
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


_SECTIONS = {"model": ModelSettings, "data": DataSettings, "training": TrainingSettings}


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
    own = family["arms"][arm] or {}
    _no_other_keys(own, _SECTIONS, f"{path.name}: arms.{arm}.")
    for key in _SECTIONS:
        for where, part in ((f"{path.name}: {key}", family.get(key)), (f"{path.name}: arms.{arm}.{key}", own.get(key))):
            if not isinstance(part or {}, dict):
                raise ValueError(f"{where} must be a mapping of settings")
    merged = _merge({key: family.get(key) or {} for key in _SECTIONS}, own)
    return _assemble(f"{path.stem}-{arm}", family.get("description", ""), merged, overrides)


def preset_from_dict(saved: dict[str, Any], overrides: dict[str, Any] | None = None) -> Preset:
    """The preset that `to_dict` gave, with changes; ValueError as in `load_preset`."""
    sections = {key: dict(saved[key]) for key in _SECTIONS}
    return _assemble(saved["name"], saved["description"], sections, overrides)


def _assemble(name: str, description: str, sections: dict, overrides: dict[str, Any] | None) -> Preset:
    _one_length(sections, overrides or {})
    for key, value in (overrides or {}).items():
        if value is not None:
            _set(sections, key, None if value is NULL else value)
    preset = Preset(
        name=name,
        description=description,
        model=_build(ModelSettings, sections["model"], "model"),
        data=_build(DataSettings, sections["data"], "data"),
        training=_build(TrainingSettings, sections["training"], "training"),
    )
    validate(preset)
    return preset


def _one_length(sections: dict, overrides: dict[str, Any]) -> None:
    """Steps that are asked for replace the preset's epochs; ValueError for both of them in one place."""
    steps, epochs = (overrides.get(f"training.{name}") for name in ("max_steps", "epochs"))
    if steps is not None and epochs not in (None, NULL):
        raise ValueError(
            f"training.max_steps={steps} and training.epochs={epochs} both say how long to train: give one of them"
        )
    if steps is not None and sections["training"].get("epochs") is not None:
        sections["training"] = {**sections["training"], "epochs": None}


def validate(preset: Preset) -> None:
    """Check everything that can be checked before data is touched; ValueError names argument, value and choices."""
    model, data, training = preset.model, preset.data, preset.training
    _one_of("model.architecture", model.architecture, ARCHITECTURES)
    _one_of("model.initialisation", model.initialisation, ("default", "pytorch", "local"))
    _one_of("data.layout", data.layout, ("rows", "packed", "windows"))
    check_data(data)
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
    for section, ranges in _RANGES.items():
        for name, allowed in ranges.items():
            _in_range(f"{section}.{name}", getattr(getattr(preset, section), name), *allowed)
    for beta in training.betas:
        _in_range("training.betas", beta, 0, 1, True, False)
    low, high = training.time_window
    if not 0 <= low < high <= 1:
        raise ValueError(f"training.time_window={[low, high]} must be two numbers, 0 <= low < high <= 1")
    _check_curriculum(training)
    _one_of("training.distillation_divergence", training.distillation_divergence, DIVERGENCES)
    for steps in training.branches:
        _in_range("training.branches", steps, 1, math.inf)
    if training.branches and training.schedule != "warmup_stable_decay":
        raise ValueError(
            "training.branches needs training.schedule=warmup_stable_decay: a branch leaves at its peak rate"
        )
    _check_model(preset)
    check_family(preset)


# Lowest and highest value allowed, and whether these two are allowed themselves.
_RANGES: dict[str, dict[str, tuple]] = {
    "data": {
        "vocab_size": (260, math.inf),
        "context_length": (4, math.inf),
        "max_tokens": (1, math.inf),
        "min_characters": (0, math.inf),
        "num_workers": (1, math.inf),
        "validation_fraction": (0, 1, False, False),
    },
    "training": {
        **dict.fromkeys(
            ("max_steps", "batch_size", "accumulation", "eval_every", "save_every", "log_every", "eval_samples",
             "eval_rows", "keep_checkpoints", "attention_annealing_steps", "length_multiple", "length_pool", "curriculum_steps",
             "distillation_steps"),
            (1, math.inf),
        ),
        **dict.fromkeys(("warmup_steps", "weight_decay", "seed"), (0, math.inf)),
        **dict.fromkeys(("min_lr_ratio", "short_canvas_share", "given_share"), (0, 1)),
        **dict.fromkeys(("learning_rate", "muon_learning_rate", "clip_norm"), (0, math.inf, False)),
        "ema_decay": (0, 1, False, False),
        "decay_share": (0, 1, False),
        "distillation_distance": (0, 1, False),
        "epochs": (0, math.inf, False),
    },
}  # fmt: skip


def check_data(data: DataSettings) -> None:
    """ValueError for settings of the data that do not go together."""
    _one_of("data.format", data.format, FORMATS)
    _one_of("data.long_documents", data.long_documents, LONG_DOCUMENTS)
    _one_of("data.long_answers", data.long_answers, LONG_ANSWERS)
    _one_of("data.stopping", data.stopping, STOPPING)
    if data.long_documents == "chunk" and data.layout != "rows":
        raise ValueError(f"data.long_documents='chunk' is for data.layout='rows'; {data.layout!r} keeps every token")
    if data.format in ("prompt", "messages") and data.layout != "rows":
        raise ValueError(f"data.format={data.format!r} needs data.layout='rows': {data.layout!r} knows no prompts")
    if data.template is not None and data.text_column != "text":
        raise ValueError(
            f"data.template and data.text_column={data.text_column!r} both say what the text is: give one of them"
        )
    for name in ("template", "text_column", "prompt_column", "completion_column"):
        if getattr(data, name) is not None:
            parts_of(f"data.{name}", getattr(data, name))
    if data.template is not None and "{" not in data.template:
        raise ValueError(
            f"data.template={data.template!r} names no column in braces; a single column is data.text_column"
        )
    for weight in data.weights:
        _in_range("data.weights", weight, 0, math.inf, False)


def _check_curriculum(training: TrainingSettings) -> None:
    """ValueError for temperatures or a window that cannot be."""
    for tau in training.curriculum_tau:
        _in_range("training.curriculum_tau", tau, 0, LARGEST_TEMPERATURE, False)
    for name in ("curriculum_alpha", "distillation_alpha"):
        low, high = getattr(training, name)
        if not 0 < low < high < 1:
            raise ValueError(f"training.{name}={[low, high]} must be two numbers, 0 < low < high < 1")


def _in_range(name: str, value: float | None, low: float, high: float, least: bool = True, most: bool = True) -> None:
    """`least`, `most`: whether the lowest and the highest value are allowed themselves."""
    if value is None or ((low <= value if least else low < value) and (value <= high if most else value < high)
                         and math.isfinite(value)):  # fmt: skip
        return
    lower = f"at least {low}" if least else f"above {low}"
    upper = "" if high == math.inf else f" and at most {high}" if most else f" and below {high}"
    raise ValueError(f"{name}={value} must be {lower}{upper}")


def _check_model(preset: Preset) -> None:
    """ValueError if `model.config` is invalid or does not fit the initialisation."""
    model = preset.model
    if model.initialisation == "local" and not (
        model.architecture != "gpt2" and model.config.get("attention_bias") is True
    ):
        raise ValueError("model.initialisation='local' needs a Llama-type model with model.config.attention_bias=true")
    check_model(model.architecture, model.config)


def check_family(preset: Preset) -> None:
    """ValueError for settings that do not go with the family of the model."""
    check_annealing(preset.training, preset.model.architecture, preset.model.config)
    if preset.model.architecture != "mdlm":
        if preset.training.distillation_steps is not None:
            raise ValueError(
                f"training.distillation_steps={preset.training.distillation_steps} is for model.architecture='mdlm', not "
                f"{preset.model.architecture!r}"
            )
        return
    _check_attention(preset)
    diffusion = preset.model.config.get("diffusion") or "masked"
    if diffusion.endswith(("block", "eso")) and preset.data.layout == "packed":
        raise ValueError(
            f"data.layout='packed' does not go with model.config.diffusion={diffusion!r}: use 'rows' or 'windows'"
        )
    if preset.model.config.get("prediction_offset") and preset.data.layout == "windows":
        raise ValueError(
            "data.layout='windows' does not go with model.config.prediction_offset=1: a window begins with no BOS, and its first token has "
            "none before it to be predicted from; use 'rows' or 'packed'"
        )
    training = preset.training
    if training.curriculum_steps is not None and (diffusion, training.objective) != ("uniform", "nelbo"):
        raise ValueError(
            f"training.curriculum_steps={training.curriculum_steps} needs model.config.diffusion='uniform' and "
            f"training.objective='nelbo', not {diffusion!r} and {training.objective!r}"
        )
    _check_distillation(preset, diffusion)
    allowed = NOISE_OBJECTIVES[NOISES[diffusion]]
    if preset.training.objective not in allowed:
        raise ValueError(
            f"training.objective={preset.training.objective!r} does not go with model.config.diffusion={diffusion!r}, which has "
            f"{', '.join(allowed)}"
        )


def _check_distillation(preset: Preset, diffusion: str) -> None:
    """ValueError where a student has no teacher, or the two would be further apart than there is time."""
    training, denoiser = preset.training, preset.model.config.get("denoiser") or "leave_one_out"
    if training.distillation_steps is None:
        return
    setting = f"training.distillation_steps={training.distillation_steps}"
    if (diffusion, denoiser) != ("uniform", "leave_one_out"):
        raise ValueError(
            f"{setting} needs model.config.diffusion='uniform' and denoiser='leave_one_out', not {diffusion!r} and {denoiser!r}"
        )
    for name, off in (("curriculum_steps", None), ("attention_annealing_steps", None), ("time_window", (0.0, 1.0))):
        if (value := getattr(training, name)) != off:
            raise ValueError(f"{setting} does not go with training.{name}={value}")
    farthest = training.teacher_distance(training.max_steps - 1)
    if farthest > 1 and training.epochs is None:  # else the number of steps is known when the data is
        raise ValueError(
            f"{setting} doubles training.distillation_distance={training.distillation_distance:g} up to {farthest:g} in "
            f"training.max_steps={training.max_steps} steps; at most 1 is possible: fewer steps, or a smaller distance"
        )


def _check_attention(preset: Preset) -> None:
    """ValueError where attention would need a mask of pairs, which flash attention does not take."""
    config, training = preset.model.config, preset.training
    attention = str(config.get("attn_implementation") or "sdpa")
    diffusion = config.get("diffusion") or "masked"
    packed = preset.data.layout == "packed" and training.batch_size > 1
    needs = {
        f"model.config.diffusion={diffusion!r}": diffusion not in WHOLE_CANVAS,
        f"data.layout='packed' and training.batch_size={training.batch_size}": packed,
        f"training.attention_annealing_steps={training.attention_annealing_steps}": (
            training.attention_annealing_steps is not None
        ),
    }
    for setting, given in needs.items():
        if given and "flash" in attention:
            raise ValueError(
                f"{setting} does not go with model.config.attn_implementation={attention!r}, which takes no mask of pairs: use "
                "sdpa, eager or flex_attention"
            )


def check_annealing(training: TrainingSettings, architecture: str, config: dict[str, Any]) -> None:
    """ValueError where attention cannot open step by step in a model of `config`, or would not be full at the end."""
    steps, diffusion = training.attention_annealing_steps, config.get("diffusion") or "masked"
    if steps is None:
        return
    setting = f"training.attention_annealing_steps={steps}"
    if architecture != "mdlm":
        raise ValueError(f"{setting} is for model.architecture='mdlm': {architecture!r} stays causal")
    if diffusion not in WHOLE_CANVAS:
        raise ValueError(
            f"{setting} does not go with model.config.diffusion={diffusion!r}, whose order says who sees whom; it is for "
            + ", ".join(WHOLE_CANVAS)
        )
    if steps > training.max_steps and training.epochs is None:  # else the number of steps is known when the data is
        raise ValueError(
            f"{setting} is more than training.max_steps={training.max_steps}: attention would never be full, but samples and "
            "bounds are made with full attention"
        )


def check_fit(preset: Preset) -> None:
    """ValueError where the data's settings do not fit a model that starts afresh."""
    model, data = preset.model, preset.data
    context = model.config.get("max_position_embeddings") or model.config.get("n_positions")
    if context is not None and data.context_length > context:
        raise ValueError(
            f"data.context_length={data.context_length} is more than model.config.max_position_embeddings={context}"
        )
    rows = model.config.get("vocab_size")
    if data.tokenizer == "bpe" and rows is not None and data.vocab_size > rows:
        raise ValueError(f"data.vocab_size={data.vocab_size} is more than model.config.vocab_size={rows}")


def _locate(name: str) -> tuple[Path, str]:
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ValueError(f"preset={name!r} is not a file")
        arms = list(_read(Path(name))["arms"])
        return Path(name), arms[0] if len(arms) == 1 else "mdlm"
    for path in PRESET_FOLDER.glob("*.yaml"):
        if name == path.stem:
            return path, "mdlm"
        if name.startswith(path.stem + "-") and name[len(path.stem) + 1 :] in _read(path)["arms"]:
            return path, name[len(path.stem) + 1 :]
    known = available_presets()
    raise ValueError(f"preset={name!r} is not one of {', '.join(known)}{_hint(name, known)}")


def _read(path: Path) -> dict[str, Any]:
    try:
        family = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"preset={str(path)!r} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(family, dict) or not isinstance(family.get("arms"), dict) or not family["arms"]:
        raise ValueError(f"preset={str(path)!r} must be a mapping with the key 'arms', which names the arms")
    _no_other_keys(family, ("description", *_SECTIONS, "arms"), f"{path.name}: ")
    return family


def _no_other_keys(values: Any, known: Collection[str], where: str) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"{where.rstrip('.: ')} must be a mapping with the keys {', '.join(known)}")
    for key in values:
        if key not in known:
            raise ValueError(f"{where}{key} is not one of {', '.join(known)}{_hint(str(key), known)}")


def _merge(base: dict, changes: dict) -> dict:
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = _merge(merged.get(key) or {}, value) if isinstance(value, dict) else value
    return merged


def _set(sections: dict, dotted: str, value: Any) -> None:
    section, _, rest = dotted.partition(".")
    if section not in _SECTIONS or not rest:
        known = [f"{name}.{f.name}" for name, cls in _SECTIONS.items() for f in fields(cls)]
        # The last part alone may be known: `max_steps` is training.max_steps.
        same = [name for name in known if name.rpartition(".")[2] == dotted.rpartition(".")[2]]
        hint = f"; did you mean {same[0]!r}?" if same else _hint(dotted, known)
        raise ValueError(f"{dotted} is not a setting: settings are model.*, data.* and training.*{hint}")
    *parents, last = rest.split(".")
    tree = sections[section]
    for depth, parent in enumerate(parents):
        tree[parent] = dict(tree[parent]) if isinstance(tree.get(parent), dict) else tree.get(parent, {})
        if not isinstance(tree[parent], dict):
            raise ValueError(f"{dotted}: {'.'.join([section, *parents[: depth + 1]])} is a single value")
        tree = tree[parent]
    tree[last] = value


def _build(cls: Any, values: dict[str, Any], section: str) -> Any:
    known, hints = {f.name: f for f in fields(cls)}, get_type_hints(cls)
    if not isinstance(values, dict):
        raise ValueError(f"{section}={values!r} must be a mapping of settings")
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"{section}.{key} is not a setting: {', '.join(known)}{_hint(key, known)}")
        if not _fits(value, hints[key]):
            kind = getattr(hints[key], "__name__", str(hints[key]))
            example = known[key].default
            such = f", such as {example!r}" if isinstance(example, (int, float, str, tuple)) else ""
            raise ValueError(f"{section}.{key}={value!r} must be a {kind}{such}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return cls(**values)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from YAML has the annotated type; whole numbers are floats too."""
    parts = get_args(hint)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if getattr(hint, "__origin__", None) is tuple:
        if parts[-1] is Ellipsis:
            return isinstance(value, (list, tuple)) and all(_fits(item, parts[0]) for item in value)
        return isinstance(value, (list, tuple)) and len(value) == len(parts) and all(map(_fits, value, parts))
    if getattr(hint, "__origin__", None) is dict:
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    if parts:
        return any(_fits(value, part) for part in parts)
    return isinstance(value, hint)


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}{_hint(str(value), allowed)}")
