"""Sampling settings of a request as arguments of `generate`, checked before the request waits in the queue."""

import copy
import json
from typing import Any

import torch

from arche_mdlm.canvas_mdlm import Canvas
from arche_mdlm.family_mdlm import family_of
from arche_mdlm.generation_config_mdlm import OWN_FIELDS, check_settings
from arche_mdlm.samplers_mdlm import Sampler, get_sampler
from arche_mdlm.serving.errors import bad_request

BOTH = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "min_new_tokens", "do_sample")
COLDEST = 0.001  # below it, 0 is meant


def settings_of(model: Any, denoises: bool, given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `generate` from the settings that a request gives; ApiError for one that the model cannot take."""
    for name in given:
        if not denoises and name not in BOTH:
            raise bad_request(f"{name} is for diffusion models; this model is autoregressive", name)
    temperature = given.get("temperature")
    if temperature is not None and 0 < temperature < COLDEST:
        raise bad_request(
            f"temperature={temperature} must be at least {COLDEST}, or 0 for the most probable tokens", "temperature"
        )
    if temperature == 0:
        given = {**given, "do_sample": False}
        del given["temperature"]
    if given.get("do_sample") is False:
        drawing = [name for name in ("temperature", "temperature_end") if name in given]
        if drawing:
            raise bad_request(f"{drawing[0]} has no effect with do_sample=false", drawing[0])
    return {"do_sample": True, **given} if "do_sample" not in given else given


def sampler_of(model: Any, settings: dict[str, Any]) -> Sampler:
    """The sampler that a diffusion model's `generate` will use; ApiError for settings that it refuses."""
    family = family_of(model.config)
    config = _generation_config(model, settings)

    def get(name: str) -> Any:
        return getattr(config, name, None)

    try:
        check_settings(get, settings, family)
        return get_sampler(config.sampler or "ancestral", family.corruption.name).from_config(config, model.config)
    except (ValueError, TypeError) as error:
        message = " ".join(str(error).split())
        named = [name for name in (*OWN_FIELDS, *settings) if f"{name}=" in message]
        first = min(named, key=lambda name: message.index(f"{name}="), default=None)
        raise bad_request(message, first, "invalid_value") from error


def check_canvas(model: Any, settings: dict[str, Any], prompt: list[int], max_new_tokens: int) -> None:
    """ApiError for a prompt and a length that `generate` would refuse."""
    config = _generation_config(model, settings)
    try:
        Canvas.build(
            model.config, config, torch.tensor([prompt]), None, ("new", max_new_tokens, False),
            min_new_tokens=settings.get("min_new_tokens"),
        )  # fmt: skip
    except ValueError as error:
        raise bad_request(" ".join(str(error).split())) from error


def _generation_config(model: Any, settings: dict[str, Any]) -> Any:
    config = copy.deepcopy(model.generation_config)
    if settings.get("block_length") is None:
        settings = {**settings, "block_length": family_of(model.config).order.block_length}
    for name, value in settings.items():
        setattr(config, name, value)
    return config


def forwards_at_most(model: Any, settings: dict[str, Any], length: int) -> int:
    """Forwards of a diffusion model that a text may take: steps, times those of a sampler's corrections."""
    steps = settings.get("num_diffusion_steps") or model.generation_config.num_diffusion_steps
    steps = max(steps or model.config.num_diffusion_steps, length if family_of(model.config).order.has_ranks else 1)
    return steps * (1 + (settings.get("corrector_steps") or 0)) * (2 if settings.get("guidance_scale") else 1)


def as_key(options: dict[str, Any]) -> str:
    """The options as JSON: rows whose keys are equal may share a batch."""
    return json.dumps(options, sort_keys=True)
