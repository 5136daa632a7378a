"""`model.config` of a preset: the keys of each architecture, and the configuration built from them."""

import difflib
import json
from dataclasses import fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # slow to import
    from transformers import PreTrainedConfig, PreTrainedModel

# Fields of the configuration classes that change nothing here: descriptions, and parts of other models.
_WITHOUT_EFFECT = {"use_cache", "pretraining_tp", "add_cross_attention", "reorder_and_upcast_attn"}
_FROM_TOKENIZER = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id")
_GPT2_NAMES = {
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
_AT_LEAST_ONE = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                 "max_position_embeddings", "num_key_value_heads", "head_dim", *_GPT2_NAMES.values())  # fmt: skip


def classes_of(architecture: str) -> "tuple[type[PreTrainedConfig], type[PreTrainedModel]]":
    """(configuration class, model class) of an architecture."""
    import transformers

    from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion

    return {
        "mdlm": (MDLMConfig, MDLMForMaskedDiffusion),
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel),
    }[architecture]


@lru_cache
def known_keys(architecture: str) -> tuple[str, ...]:
    """Keys of `model.config` that have an effect."""
    from transformers import PreTrainedConfig

    own = {f.name for f in fields(classes_of(architecture)[0])} - {f.name for f in fields(PreTrainedConfig)}
    own -= _WITHOUT_EFFECT | set(_FROM_TOKENIZER)
    own = {name for name in own if not name.startswith("summary_")} | {"attn_implementation"}
    return tuple(sorted(own | (set(_GPT2_NAMES) | {"attention_bias"} if architecture == "gpt2" else {"rope_theta"})))


def make_config(architecture: str, values: dict[str, Any], **special_ids: int | None) -> "PreTrainedConfig":
    """A checked configuration. `null` leaves a key to the default of its class.

    Raises:
        ValueError: for a key without an effect, or a value that the class refuses; both are named.
    """
    cls: Any = classes_of(architecture)[0]
    values = {key: value for key, value in values.items() if value is not None}
    _check_keys(architecture, values)
    names = _GPT2_NAMES if architecture == "gpt2" else {}
    kinds = {f.name: f.type for f in fields(cls)}
    own: dict[str, Any] = {}
    for key, value in values.items():
        name = names.get(key, key)
        own[name] = float(value) if kinds.get(name) in (float, "float") and type(value) is int else value
    if architecture == "gpt2":
        own.pop("attention_bias", None)  # GPT-2 has these biases: `_check_keys` allows nothing else
    elif "rope_theta" in own:
        own["rope_parameters"] = {"rope_type": "default"} | dict(own.get("rope_parameters") or {})
        own["rope_parameters"]["rope_theta"] = float(own.pop("rope_theta"))
    try:
        config = cls(**own, **special_ids)
        config.validate()  # a subclass of a strict dataclass does not call it
        return config
    except Exception as error:  # ValueError, TypeError, KeyError, and the Hub library's own
        raise _refused(values, error) from error


@lru_cache(maxsize=256)
def _check(architecture: str, values: str) -> None:
    import torch

    own = json.loads(values)
    if own.get("attn_implementation") == "flex_attention":  # does not run on the meta device
        own["attn_implementation"] = "sdpa"
    config = make_config(architecture, own, bos_token_id=None, eos_token_id=None)
    try:
        with torch.device("meta"), torch.no_grad():
            model = classes_of(architecture)[1](config).eval()
            times = {"timesteps": torch.ones(1)} if getattr(config, "time_conditioning", "none") != "none" else {}
            model(input_ids=torch.zeros(1, 2, dtype=torch.long), **times)
    except Exception as error:  # layers raise many kinds of errors for invalid sizes
        raise _refused(json.loads(values), error) from error


def check_model(architecture: str, values: dict[str, Any]) -> None:
    """Build the model without memory, and run it; ValueError for settings that do not give a model."""
    known = {key: value for key, value in values.items() if value is not None}
    _check_keys(architecture, known)
    try:
        _check(architecture, json.dumps(known, sort_keys=True))
    except TypeError as error:
        raise _refused(known, error) from error


def _check_keys(architecture: str, values: dict[str, Any]) -> None:
    known = known_keys(architecture)
    for key, value in values.items():
        if key in _FROM_TOKENIZER:
            raise ValueError(f"model.config.{key} comes from the tokenizer; it cannot be set")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"model.config.{key} does not exist for model.architecture={architecture!r}; "
                f"use one of {', '.join(known)}{hint}"
            )
        if key in _AT_LEAST_ONE and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"model.config.{key}={value!r} must be a whole number of at least 1")
        if "drop" in key and not (isinstance(value, (int, float)) and 0 <= value < 1):
            raise ValueError(f"model.config.{key}={value!r} must be at least 0 and below 1")
    if architecture == "gpt2":
        if values.get("attention_bias", True) is not True:
            raise ValueError("model.config.attention_bias=false: GPT-2 always has these biases")
        for key, name in _GPT2_NAMES.items():
            if values.get(key) is not None and values.get(name) is not None:
                raise ValueError(f"model.config.{key} and model.config.{name} are the same setting: give one of them")
    elif "rope_theta" in values and not isinstance(values["rope_theta"], (int, float)):
        raise ValueError(f"model.config.rope_theta={values['rope_theta']!r} must be a number")


def _refused(values: dict[str, Any], error: Exception) -> ValueError:
    """The error in one line, with the settings that its text names."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1].removeprefix("ValueError: ").removeprefix("TypeError: ") if lines else type(error).__name__
    if isinstance(error, KeyError):
        text = f"{text} is unknown"
    spoken = str(error).lower().replace("_", " ")
    named = [f"{key}={value!r}" for key, value in values.items()
             if key.replace("_", " ") in spoken or (isinstance(error, KeyError) and str(error) in repr(value))]  # fmt: skip
    if not named and "rope" in spoken:
        named = [f"{key}={value!r}" for key, value in values.items() if key.startswith("rope")]
    shape = named or [f"{key}={values[key]!r}" for key in _AT_LEAST_ONE if key in values]
    return ValueError(f"model.config ({', '.join(shape)}) gives no model: {text}")
