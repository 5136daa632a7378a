"""What can be checked of a preset before data is touched: ranges, choices, and settings that do not go together."""

import math
from itertools import chain
from typing import Any

from arche_mdlm.configuration.model_config import check_model
from arche_mdlm.configuration.settings import DataSettings, Preset, TrainingSettings
from arche_mdlm.configuration.templates import parts_of
from arche_mdlm.configuration.words import one_of
from arche_mdlm.family_parts_mdlm import FAMILY_PARTS, OBJECTIVES

ARCHITECTURES = ("mdlm", "llama", "gpt2")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
LARGEST_TEMPERATURE = 0.02  # of the curriculum: above it the latents that are not drawn have a weight
DIVERGENCES = ("backward", "forward")  # of student and teacher
LONG_DOCUMENTS = ("drop", "chunk")
FORMATS = ("auto", "text", "prompt", "messages")
LONG_ANSWERS = ("error", "drop")
STOPPING = ("first_exhausted", "all_exhausted")


def sees_all(diffusion: str) -> bool:
    """Whether every position of this family sees the whole canvas."""
    return FAMILY_PARTS[diffusion].order == "whole"


def check_preset(preset: Preset) -> None:
    """Check everything that can be checked before data is touched; ValueError names argument, value and choices."""
    model, data, training = preset.model, preset.data, preset.training
    one_of("model.architecture", model.architecture, ARCHITECTURES)
    one_of("model.initialisation", model.initialisation, ("default", "pytorch", "local"))
    one_of("data.layout", data.layout, ("rows", "packed", "windows"))
    check_data(data)
    one_of("training.objective", training.objective, (*dict.fromkeys(chain(*OBJECTIVES.values())), "next_token"))
    one_of("training.time_sampling", training.time_sampling, ("stratified", "uniform"))
    one_of("training.optimizer", training.optimizer, ("adamw", "muon"))
    one_of("training.schedule", training.schedule, ("cosine", "warmup_stable_decay"))
    one_of("training.mixed_precision", training.mixed_precision, ("no", "bf16", "fp16"))
    one_of("training.compile_mode", training.compile_mode, COMPILE_MODES)
    if (training.objective == "next_token") == (model.architecture == "mdlm"):
        raise ValueError(
            f"training.objective={training.objective!r} does not work with model.architecture={model.architecture!r}: "
            "next_token is for llama and gpt2, the others for mdlm"
        )
    for section, ranges in _RANGES.items():
        for name, allowed in ranges.items():
            in_range(f"{section}.{name}", getattr(getattr(preset, section), name), *allowed)
    for beta in training.betas:
        in_range("training.betas", beta, 0, 1, True, False)
    low, high = training.time_window
    if not 0 <= low < high <= 1:
        raise ValueError(f"training.time_window={[low, high]} must be two numbers, 0 <= low < high <= 1")
    _check_curriculum(training)
    one_of("training.distillation_divergence", training.distillation_divergence, DIVERGENCES)
    for steps in training.branches:
        in_range("training.branches", steps, 1, math.inf)
    if training.branches and training.schedule != "warmup_stable_decay":
        raise ValueError(
            "training.branches needs training.schedule=warmup_stable_decay: a branch starts at the peak rate"
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
             "eval_rows", "eval_train_rows", "keep_checkpoints", "attention_annealing_steps", "length_multiple", "length_pool", "curriculum_steps",
             "distillation_steps"),
            (1, math.inf),
        ),
        **dict.fromkeys(("warmup_steps", "weight_decay", "seed"), (0, math.inf)),
        **dict.fromkeys(("min_lr_ratio", "short_canvas_share", "given_share"), (0, 1)),
        **dict.fromkeys(("learning_rate", "muon_learning_rate", "clip_norm", "stop_at_nats"), (0, math.inf, False)),
        "stop_past_best": (1, math.inf, False),
        "ema_decay": (0, 1, False, False),
        "decay_share": (0, 1, False),
        "distillation_distance": (0, 1, False),
        "epochs": (0, math.inf, False),
    },
}  # fmt: skip


def check_data(data: DataSettings) -> None:
    """ValueError for settings of the data that do not go together."""
    one_of("data.format", data.format, FORMATS)
    one_of("data.long_documents", data.long_documents, LONG_DOCUMENTS)
    one_of("data.long_answers", data.long_answers, LONG_ANSWERS)
    one_of("data.stopping", data.stopping, STOPPING)
    if data.long_documents == "chunk" and data.layout != "rows":
        raise ValueError(f"data.long_documents='chunk' needs data.layout='rows'; {data.layout!r} keeps every token")
    if data.format in ("prompt", "messages") and data.layout != "rows":
        raise ValueError(
            f"data.format={data.format!r} needs data.layout='rows': {data.layout!r} does not support prompts"
        )
    if data.template is not None and data.text_column != "text":
        raise ValueError(
            f"data.template and data.text_column={data.text_column!r} both define the text: give one of them"
        )
    for name in ("template", "text_column", "prompt_column", "completion_column"):
        if getattr(data, name) is not None:
            parts_of(f"data.{name}", getattr(data, name))
    if data.template is not None and "{" not in data.template:
        raise ValueError(
            f"data.template={data.template!r} has no column in braces; for a single column use data.text_column"
        )
    for weight in data.weights:
        in_range("data.weights", weight, 0, math.inf, False)


def _check_curriculum(training: TrainingSettings) -> None:
    """ValueError for temperatures or a window that cannot be."""
    for tau in training.curriculum_tau:
        in_range("training.curriculum_tau", tau, 0, LARGEST_TEMPERATURE, False)
    for name in ("curriculum_alpha", "distillation_alpha"):
        low, high = getattr(training, name)
        if not 0 < low < high < 1:
            raise ValueError(f"training.{name}={[low, high]} must be two numbers, 0 < low < high < 1")


def in_range(name: str, value: float | None, low: float, high: float, least: bool = True, most: bool = True) -> None:
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
                f"training.distillation_steps={preset.training.distillation_steps} needs model.architecture='mdlm', not "
                f"{preset.model.architecture!r}"
            )
        return
    _check_attention(preset)
    diffusion = preset.model.config.get("diffusion") or "masked"
    if not sees_all(diffusion) and preset.data.layout == "packed":
        raise ValueError(
            f"data.layout='packed' does not work with model.config.diffusion={diffusion!r}: use 'rows' or 'windows'"
        )
    if preset.model.config.get("prediction_offset") and preset.data.layout == "windows":
        raise ValueError(
            "data.layout='windows' does not work with model.config.prediction_offset=1: a window has no BOS, so there is no position "
            "to predict its first token from; use 'rows' or 'packed'"
        )
    training = preset.training
    if training.curriculum_steps is not None and (diffusion, training.objective) != ("uniform", "nelbo"):
        raise ValueError(
            f"training.curriculum_steps={training.curriculum_steps} needs model.config.diffusion='uniform' and "
            f"training.objective='nelbo', not {diffusion!r} and {training.objective!r}"
        )
    _check_distillation(preset, diffusion)
    allowed = OBJECTIVES[FAMILY_PARTS[diffusion].noise]
    if preset.training.objective not in allowed:
        raise ValueError(
            f"training.objective={preset.training.objective!r} does not work with model.config.diffusion={diffusion!r}, which supports "
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
    for name, off in (
        ("curriculum_steps", None),
        ("attention_annealing_steps", None),
        ("stop_past_best", None),
        ("time_window", (0.0, 1.0)),
    ):
        if (value := getattr(training, name)) != off:
            raise ValueError(f"{setting} does not work with training.{name}={value}")
    farthest = training.teacher_distance(training.max_steps - 1)
    if farthest > 1 and training.epochs is None:  # else the number of steps is known when the data is
        raise ValueError(
            f"{setting} doubles training.distillation_distance={training.distillation_distance:g} to {farthest:g} in "
            f"training.max_steps={training.max_steps} steps; the maximum is 1: use fewer steps or a smaller distance"
        )


def _check_attention(preset: Preset) -> None:
    """ValueError where attention would need a mask of pairs, which flash attention does not take."""
    config, training = preset.model.config, preset.training
    attention = str(config.get("attn_implementation") or "sdpa")
    diffusion = config.get("diffusion") or "masked"
    packed = preset.data.layout == "packed" and training.batch_size > 1
    needs = {
        f"model.config.diffusion={diffusion!r}": not sees_all(diffusion),
        f"data.layout='packed' and training.batch_size={training.batch_size}": packed,
        f"training.attention_annealing_steps={training.attention_annealing_steps}": (
            training.attention_annealing_steps is not None
        ),
    }
    for setting, given in needs.items():
        if given and "flash" in attention:
            raise ValueError(
                f"{setting} does not work with model.config.attn_implementation={attention!r}, which supports no mask of query-key pairs: use "
                "sdpa, eager or flex_attention"
            )


def check_annealing(training: TrainingSettings, architecture: str, config: dict[str, Any]) -> None:
    """ValueError where attention cannot open step by step in a model of `config`, or would not be full at the end."""
    steps, diffusion = training.attention_annealing_steps, config.get("diffusion") or "masked"
    if steps is None:
        return
    setting = f"training.attention_annealing_steps={steps}"
    if architecture != "mdlm":
        raise ValueError(f"{setting} needs model.architecture='mdlm': {architecture!r} is always causal")
    if not sees_all(diffusion):
        raise ValueError(
            f"{setting} does not work with model.config.diffusion={diffusion!r}, which has its own attention mask; it works with "
            + ", ".join(filter(sees_all, FAMILY_PARTS))
        )
    if steps > training.max_steps and training.epochs is None:  # else the number of steps is known when the data is
        raise ValueError(
            f"{setting} is more than training.max_steps={training.max_steps}: attention would never become full, but generation and "
            "bounds use full attention"
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
