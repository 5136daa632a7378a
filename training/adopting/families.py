"""What a config.json of LLaDA, Dream or dllm's a2d models says in the words of `MDLMConfig`, and what its tensors are called here."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from transformers import LlamaConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

from arche_mdlm.training.adopting.source import reading_config
from arche_mdlm.training.models.ar_trunk import trunk_fields

Values = dict[str, Any]


class Family(NamedTuple):
    """A kind of diffusion model of others.

    Args:
        name: how it is called in messages.
        check: config.json to its problems, each a sentence that names the switch; none where it can be adopted.
        fields: config.json to fields of `MDLMConfig`.
        rename: a tensor's name to ours; None for one that we do not know.
        writing: what its authors write with: fields of the generation config.
    """

    name: str
    check: Callable[[Values], list[str]]
    fields: Callable[[Values], Values]
    rename: Callable[[str], str | None]
    writing: Values


def family_of_config(values: Values) -> Family | None:
    """The family of a config.json; None for any other model."""
    return FAMILIES.get(str(values.get("model_type")))


def fields_of(source: str, family: Family, values: Values, context: int | None = None) -> Values:
    """Fields of `MDLMConfig`, tokens aside.

    Args:
        source: where config.json is from, for messages.
        values: its content.
        context: tokens of the new model; None: the source's.

    Raises:
        ValueError: with every switch that stands in the way, for fields that are missing, and a `context` above the source's.
    """
    problems = family.check(values)
    if values.get("quantization_config") is not None:
        problems.append("quantization_config is set: take the checkpoint that it was made from")
    if problems:
        raise ValueError(f"{source!r} is a {family.name} model with unsupported settings: {'; '.join(problems)}")
    with reading_config(source):
        fields = family.fields(values)
    longest = fields["max_position_embeddings"]
    if context is not None and not 0 < context <= longest:
        raise ValueError(f"context_length={context} is not in 1 to {longest}, the context of {source!r}")
    return fields | {"max_position_embeddings": context or longest, "noise_schedule": "linear"}


def _must_be(values: Values, wanted: Values, absent: tuple[str, ...]) -> list[str]:
    """Problems: fields that are not as `wanted`, and fields of `absent` that are set."""
    wrong = [
        f"{name}={values.get(name)!r} must be {value!r}" for name, value in wanted.items() if values.get(name) != value
    ]
    return wrong + [f"{name}={values[name]!r} must be false or missing" for name in absent if values.get(name)]


# --- LLaDA ------------------------------------------------------------------------------------------------------------

_LLADA_TOP = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
_LLADA_LAYER = {
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
_LLADA_NAME = re.compile(r"model\.transformer\.(?:blocks\.(\d+)\.)?(\w+)\.(weight|bias)")


def _check_llada(values: Values) -> list[str]:
    if values.get("num_experts"):
        return [f"num_experts={values['num_experts']}: it is a mixture of experts"]
    wanted = {"rope": True, "block_type": "llama", "activation_type": "silu", "layer_norm_type": "rms"}
    absent = (
        "alibi",
        "attention_layer_norm",
        "input_emb_norm",
        "scale_logits",
        "clip_qkv",
        "include_bias",
        "bias_for_layer_norm",
    )
    problems = _must_be(values, wanted, absent)
    for name, usual in (("block_group_size", 1), ("layer_norm_with_affine", True)):
        if values.get(name, usual) != usual:
            problems.append(f"{name}={values[name]!r} must be {usual!r}")
    return problems


def _llada_fields(values: Values) -> Values:
    heads = values["n_heads"]
    grouped = values.get("n_kv_heads") or (1 if values.get("multi_query_attention") else heads)
    return {
        "vocab_size": values.get("embedding_size") or values["vocab_size"],
        "hidden_size": values["d_model"],
        "intermediate_size": values.get("mlp_hidden_size") or int(values["mlp_ratio"] * values["d_model"]),
        "num_hidden_layers": values["n_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": grouped,
        "rms_norm_eps": values["rms_norm_eps"],
        "rope_parameters": {"rope_type": "default", "rope_theta": float(values["rope_theta"])},
        "max_position_embeddings": values["max_sequence_length"],
        "tie_word_embeddings": bool(values["weight_tying"]),
        "attention_bias": bool(values.get("include_qkv_bias")),
        "attention_output_bias": False,
        "attention_dropout": values.get("attention_dropout", 0.0),
        "initializer_range": values.get("init_std", 0.02),
    }


def _rename_llada(name: str) -> str | None:
    found = _LLADA_NAME.fullmatch(name)
    if found is None:
        return None
    layer, part, kind = found.groups()
    if layer is None:
        return f"{_LLADA_TOP[part]}.{kind}" if part in _LLADA_TOP else None
    return f"model.layers.{layer}.{_LLADA_LAYER[part]}.{kind}" if part in _LLADA_LAYER else None


# --- Dream, and dllm's a2d: an AR model's own shape -------------------------------------------------------------------


_OWN_FIELDS = {"attention_output_bias", "qk_norm"}


def _check_qwen(values: Values) -> list[str]:
    return _must_be(values, {}, ("use_sliding_window", "use_mrope"))


def _fields_like(config_class: type[PreTrainedConfig], **own: Any) -> Callable[[Values], Values]:
    """`fields` of a family that has the shape and the names of an AR model of transformers."""

    def fields(values: Values) -> Values:
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                     "max_position_embeddings"):  # fmt: skip
            values[name]  # a default of the class would be another model's
        config = config_class(
            **{name: value for name, value in values.items() if name not in ("model_type", "auto_map")}
        )
        fields, known = trunk_fields(config), LlamaConfig().to_dict().keys() | _OWN_FIELDS
        return {name: value for name, value in fields.items() if name in known} | own

    return fields


def _same(name: str) -> str | None:
    return name if name.startswith(("model.", "lm_head.")) else None


# As the authors write: the length is not drawn first (`draw_length=True` of a call does).
_LLADA_WRITING = {
    "sampler": "confidence",
    "draw_length": False,
    "temperature": 0.0,
    "max_new_tokens": 128,
    "num_diffusion_steps": 128,
}
_DREAM_WRITING = {
    "sampler": "entropy",
    "draw_length": False,
    "temperature": 0.2,
    "top_p": 0.95,
    "max_new_tokens": 512,
    "num_diffusion_steps": 512,
}

FAMILIES = {
    "llada": Family("LLaDA", _check_llada, _llada_fields, _rename_llada, _LLADA_WRITING),
    "Dream": Family("Dream", _check_qwen, _fields_like(Qwen2Config, prediction_offset=1), _same, _DREAM_WRITING),
    "a2d-llama": Family("dllm a2d-llama", _check_qwen, _fields_like(LlamaConfig), _same, _LLADA_WRITING),
    "a2d-qwen2": Family("dllm a2d-qwen2", _check_qwen, _fields_like(Qwen2Config), _same, _LLADA_WRITING),
    "a2d-qwen3": Family("dllm a2d-qwen3", _check_qwen, _fields_like(Qwen3Config), _same, _LLADA_WRITING),
}
