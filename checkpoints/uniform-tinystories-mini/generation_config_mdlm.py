"""The generation config: the options of `generate`, and checks of their values before any work is done.

transformers accepts every option it knows, even if a custom loop ignores it. Here only listed options are accepted; all others
raise an error.
"""

import difflib
import math
from collections.abc import Callable
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

from .family_mdlm import Family
from .order_mdlm import Order
from .samplers_mdlm import Sampler, get_sampler, sampler_options

OWN_FIELDS: dict[str, Any] = {
    "num_diffusion_steps": None,
    "sampler": "ancestral",
    "block_length": None,
    "temperature_end": None,
    "threshold": None,
    "threshold_factor": None,
    "entropy_bound": None,
    "remasking": None,
    "remasking_rate": None,
    "kappa": None,
    "corrector_steps": None,
    "greedy_tail": None,
    "draw_length": None,
    "output_history": None,
    "prefix_cache": None,
}

# Options of transformers that work here as documented.
WORKING = {
    "max_new_tokens", "max_length", "min_new_tokens", "min_length", "max_time", "stop_strings", "eos_token_id", "pad_token_id",
    "bos_token_id", "do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
    "repetition_penalty", "bad_words_ids", "suppress_tokens", "renormalize_logits", "remove_invalid_values", "guidance_scale",
    "num_return_sequences", "return_dict_in_generate", "compile_config", "disable_compile",
    "use_cache",  # ignored: without a KV cache the text is the same
    "transformers_version",
}  # fmt: skip
# Below it, logits divided by the temperature leave the range of float32.
LEAST_TEMPERATURE = 1e-6
# Other arguments of `generate`.
ARGUMENTS = {"input_ids", "attention_mask", "logits_processor", "tokenizer", "trust_remote_code"}

# Values with which an unsupported option has no effect, besides None and False.
_NEUTRAL: dict[str, Any] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "length_penalty": 1,
    "diversity_penalty": 0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1,
    "num_assistant_tokens": 20,
    "num_assistant_tokens_schedule": "constant",
    "assistant_confidence_threshold": 0.4,
    "assistant_lookbehind": 10,
    "target_lookbehind": 10,
}


class MDLMGenerationConfig(GenerationConfig):
    """A `GenerationConfig` with the options of masked diffusion.

    Args:
        sampler (`str`, defaults to `"ancestral"`): one of `available_samplers()`.
        num_diffusion_steps (`int`, *optional*): maximum number of denoising steps for a row. Default: from the model
            config; for first_hitting, entropy_bound and threshold, one for each position.
        block_length (`int`, *optional*): positions in a block; blocks are filled left to right and share the steps.
            Default: one block.
        temperature_end (`float`, *optional*): the temperature changes linearly from `temperature` at t = 1 to this at t = 0.
        threshold (`float`, *optional*), threshold_factor (`float`, *optional*): see `ThresholdSampler`.
        entropy_bound (`float`, nats, *optional*): see `EntropyBoundSampler`.
        remasking (`str`, *optional*), remasking_rate (`float`, *optional*): see `RemaskingSampler`.
        kappa (`float`, *optional*): see `PsiSampler`. corrector_steps (`int`, *optional*): see `GibbsSampler`.
        greedy_tail (`bool`, *optional*): see `UniformAncestralSampler`.
        draw_length (`bool`, *optional*): draw the position of the end token first, from one forward on the empty canvas (`draw_ends`).
            Default: True for the samplers `confidence` and `threshold`, whose texts would be far too short otherwise.
        output_history (`bool`, *optional*): return the canvas after each step; needs `return_dict_in_generate`.
        prefix_cache (`bool`, *optional*): with `block_length`, cache keys and values of all other blocks while one is filled
            (`BlockCache`): exact for a block-causal model without time conditioning, approximate for others, with a warning. With
            `diffusion="eso"` it needs no blocks and is exact.
        compile_config (`CompileConfig`, *optional*): compile the model's layers in this call (`compiled_layers`).
        **kwargs: the fields of `GenerationConfig` that work here (`WORKING`).

    Example:

    ```python
    >>> from arche_mdlm import MDLMGenerationConfig
    >>> settings = MDLMGenerationConfig(sampler="entropy_bound", entropy_bound=0.2, max_new_tokens=16, do_sample=True)
    >>> settings.entropy_bound, settings.num_diffusion_steps
    (0.2, None)

    ```
    """

    sampler: str | None
    num_diffusion_steps: int | None
    block_length: int | None
    temperature_end: float | None
    threshold: float | None
    threshold_factor: float | None
    entropy_bound: float | None
    remasking: str | None
    remasking_rate: float | None
    kappa: float | None
    corrector_steps: int | None
    greedy_tail: bool | None
    draw_length: bool | None
    output_history: bool | None
    prefix_cache: bool | None

    def __init__(self, **kwargs: Any) -> None:
        for name, default in OWN_FIELDS.items():
            setattr(self, name, kwargs.pop(name, default))
        super().__init__(**kwargs)

    @classmethod
    def from_model_config(cls, model_config: PreTrainedConfig | dict[str, Any]) -> "MDLMGenerationConfig":
        """The special tokens only; the method of transformers would also copy other fields of the model config."""
        config = model_config if isinstance(model_config, dict) else model_config.to_dict()
        return cls(**{name: config.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")})


def refuse_unsupported(call: dict[str, Any], configs: list[dict[str, Any]], known: set[str]) -> None:
    """ValueError for an option that does not exist or is not supported.

    Args:
        call: keyword arguments of this call.
        configs: generation configs with the defaults, as dicts.
        known: names of all options and arguments of transformers.
    """
    works = WORKING | set(OWN_FIELDS)
    for place in (call, *configs):
        for name, value in place.items():
            if name in works or (place is call and name in ARGUMENTS) or name.startswith("_"):
                continue
            neutral = value is None or value is False or (name in _NEUTRAL and value == _NEUTRAL[name])
            if (
                place is call
                and name not in known | {"position_ids", "inputs_embeds", "past_key_values"}
                and not neutral
            ):
                near = difflib.get_close_matches(name, works, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"generate does not know the argument {name}={_short(value)}{hint}")
            if not neutral:
                raise ValueError(
                    f"{name}={_short(value)} is not supported by masked diffusion generation; leave it out"
                )
    for place in (call, *configs):
        if any(len(words) > 1 for words in place.get("bad_words_ids") or []):
            raise ValueError(
                "bad_words_ids of several tokens are not supported: a canvas is not filled left to right; give single tokens"
            )


def _short(value: Any) -> str:
    """A value in an error message of one line."""
    line = " ".join(repr(value).split())
    return line if len(line) <= 60 else f"{line[:57]}..."


def check_settings(get: Callable[[str], Any], given: dict[str, Any], family: Family) -> None:
    """ValueError naming the setting, its value and what is allowed.

    Args:
        get: `get(name)` is the value of a setting, given or default, or None.
        given: the settings of this call alone. A default of the checkpoint may belong to another sampler than this call's.
        family: of the model.
    """
    for name in ("num_diffusion_steps", "block_length", "num_return_sequences"):
        value = get(name)
        if value is not None and not is_count(value):
            raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
    for name in ("max_new_tokens", "max_length", "min_new_tokens", "min_length"):
        value = get(name)
        if value is not None and not (value == 0 or is_count(value)):
            raise ValueError(f"{name}={value!r} must be a whole number of at least 0")
    top_p, max_time = get("top_p"), get("max_time")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p!r} must be above 0 and at most 1")
    if max_time is not None and not max_time > 0:
        raise ValueError(f"max_time={max_time!r} must be a number of seconds above 0")
    for name in ("temperature", "temperature_end"):
        value = get(name)
        allowed = value is None or LEAST_TEMPERATURE <= value < math.inf or (name == "temperature" and value == 0)
        if not allowed:
            zero = ", or 0 for the most probable tokens" if name == "temperature" else ""
            raise ValueError(f"{name}={value!r} must be a number of at least {LEAST_TEMPERATURE:g}{zero}")
    if get("output_history") and not get("return_dict_in_generate"):
        raise ValueError("output_history=True needs return_dict_in_generate=True: the history is a field of its output")
    if get("prefix_cache") and get("block_length") is None and not family.order.has_ranks:
        raise ValueError("prefix_cache=True needs block_length: it caches the positions outside the current block")
    _check_sampler(get, given, family.corruption.name)
    _check_order(get, family.order)
    _check_length(get, family)


def _check_sampler(get: Callable[[str], Any], given: dict[str, Any], noise: str) -> None:
    """ValueError for settings of other samplers."""
    name = get("sampler") or "ancestral"
    sampler = get_sampler(name, noise)
    if sampler.anneals_temperature and get("temperature_end") is not None:
        raise ValueError(
            f"temperature_end={get('temperature_end')!r}: sampler={name!r} has its own temperature schedule"
        )
    for option, fitting in sorted(sampler_options().items()):
        value = given.get(option)
        if value is not None and option not in sampler.options:
            raise ValueError(
                f"{option}={value!r} does not work with sampler={name!r}: it is an option of {', '.join(sorted(fitting))}"
            )


def _check_order(get: Callable[[str], Any], order: Order) -> None:
    """Settings that do not work with the order of a family."""
    name = get("sampler") or "ancestral"
    if order.samplers is not None and name not in order.samplers:
        raise ValueError(
            f"sampler={name!r} does not work with diffusion='eso', which has its own order of generation: use "
            f"{', '.join(order.samplers)}"
        )
    if not order.has_ranks:
        return
    if get("block_length") is not None:
        raise ValueError(f"block_length={get('block_length')} does not work with diffusion='eso', which has no blocks")
    if get("guidance_scale") not in (None, 1) or get("negative_prompt_ids") is not None:
        raise ValueError(
            f"guidance_scale={get('guidance_scale')} and negative prompts do not work with diffusion='eso': leave them out"
        )


def _check_length(get: Callable[[str], Any], family: Family) -> None:
    """ValueError if `draw_length` is set but the length cannot be drawn."""
    if not get("draw_length"):
        return
    if not _has_length(family):
        raise ValueError(
            "draw_length=True needs masked noise on the whole canvas: for other models the empty canvas does not determine the length"
        )
    eos = get("eos_token_id")
    if eos is None or eos == []:
        raise ValueError("draw_length=True needs eos_token_id, the token whose position is drawn, but it is not set")


def _has_length(family: Family) -> bool:
    """Whether the empty canvas determines the length of a text."""
    return family.corruption.has_order and family.order.block_length is None and not family.order.has_ranks


def draws_length(generation_config: GenerationConfig, sampler: Sampler, family: Family) -> bool:
    """Whether the length is drawn first: where that is asked for, or the sampler needs it."""
    asked = getattr(generation_config, "draw_length", None)
    return bool(asked) if asked is not None else sampler.draws_length and _has_length(family)


def is_count(value: Any) -> bool:
    """Whether it is a whole number of at least 1."""
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and 1 <= value < 2**63 and int(value) == value
    )
