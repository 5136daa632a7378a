"""The options of `accelerate launch`, read from its environment variables: each is followed or refused.

An option given to `train.py` itself wins, the launcher is next, the preset last.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from accelerate.utils import GradientAccumulationPlugin, TorchDynamoPlugin

from arche_mdlm.configuration.checks import COMPILE_MODES
from arche_mdlm.configuration.settings import Preset

_PRECISIONS = ("no", "bf16", "fp16")
_REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
    "ACCELERATE_USE_SAGEMAKER": "SageMaker",
    "ACCELERATE_IN_TPU_POD": "a TPU",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "dynamo_use_fullgraph",
    "ACCELERATE_DYNAMO_USE_DYNAMIC": "dynamo_use_dynamic",
}


def apply_launcher(
    preset: Preset, explicit: Collection[str], environment: Mapping[str, str] = os.environ
) -> tuple[Preset, list[str]]:
    """The preset with the launcher's options, and notes for the user.

    Args:
        explicit: keys (`training.mixed_precision`) that the command line of `train.py` sets itself.

    Raises:
        ValueError: for something the launcher asks for that this trainer does not do.
    """
    for variable, name in _REFUSED.items():
        if _true(environment.get(variable)):
            raise ValueError(
                f"{name} in the launch file is not supported: launch with DDP or FSDP2 (docs/several_gpus.md)"
            )
    changes, notes = {}, []
    for key, asked, source in _asked(preset, environment):
        own = getattr(preset.training, key)
        if asked == own:
            continue
        if f"training.{key}" in explicit:
            notes.append(f"note: training.{key}={own!r} of the command line is used, not {asked!r} of {source}")
        else:
            changes[key] = asked
            notes.append(f"note: training.{key}={asked!r}, from {source}, not {own!r} of the preset")
    own = preset.training.mixed_precision
    launched, chosen = environment.get("ACCELERATE_MIXED_PRECISION"), "training.mixed_precision" in explicit
    if launched == "no" and own != "no" and not chosen:
        # 'no' is also what the launcher says when it was told nothing: that must not switch off the preset's precision.
        notes.append(
            f"note: training.mixed_precision={own!r} of the preset is used: 'no' is also the launcher's default; "
            "for float32 give --mixed_precision no behind train.py"
        )
    if _true(environment.get("ACCELERATE_USE_FSDP")) and environment.get("WORLD_SIZE", "1") == "1":
        notes.append("note: FSDP of the launcher needs two processes at least; the model is whole on this one")
    return replace(preset, training=replace(preset.training, **changes)), notes


def _asked(preset: Preset, environment: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    """(field of the training settings, value, where it comes from) of each launcher option that is not at its default."""
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision not in _PRECISIONS:
        raise ValueError(f"mixed_precision={precision!r} of the launcher is not one of {', '.join(_PRECISIONS)}")
    if precision != "no":
        yield "mixed_precision", precision, "the launcher"
    steps = environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS")
    if steps is not None and steps != "1":
        if not steps.isdigit() or int(steps) < 1:
            raise ValueError(f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS={steps!r} must be a whole number of at least 1")
        yield "accumulation", int(steps), "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
    backend = environment.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if backend not in ("no", "inductor"):
        raise ValueError(f"dynamo_backend={backend!r} of the launcher is not supported: give no or inductor")
    if backend == "inductor":
        mode = environment.get("ACCELERATE_DYNAMO_MODE", "default")
        if mode not in COMPILE_MODES:
            raise ValueError(f"dynamo_mode={mode!r} of the launcher is not one of {', '.join(COMPILE_MODES)}")
        yield "compile", True, "dynamo_backend of the launcher"
        if mode != "default":
            yield "compile_mode", mode, "dynamo_mode of the launcher"


def accelerator_arguments() -> dict:
    """Keep Accelerate from doing a second time what the trainer does: divide losses, compile the whole model."""
    return {
        "gradient_accumulation_plugin": GradientAccumulationPlugin(num_steps=1),
        "dynamo_plugin": TorchDynamoPlugin(backend="no"),
    }


def asks_for_cpu(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the launcher was given `--cpu`."""
    return _true(environment.get("ACCELERATE_USE_CPU"))


def is_main_process(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process prints messages, known before the `Accelerator` exists."""
    return environment.get("RANK", "0") == "0"


def _true(value: str | None) -> bool:
    return (value or "").lower() in ("1", "true", "yes", "on")
