"""Which AR models the trunk can carry, and the fields of its configuration that make it theirs."""

from typing import Any

# By type: fields of `MDLMConfig` beside those that have one name in both.
_TRUNKS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {"attention_bias": True, "attention_output_bias": False},
    "qwen3": {"qk_norm": True},
}
TYPES = tuple(_TRUNKS)
_REASONS: dict[str | None, str] = {
    "gpt2": "it has learned positions, LayerNorm and an MLP without a gate, and the trunk has rotary positions, RMSNorm and a gated MLP",
    "gemma": "its norms and embeddings are scaled in another way",
    "gemma2": "its norms and embeddings are scaled in another way",
    "phi3": "its projections are stored as one",
    "mixtral": "it is a mixture of experts",
    "qwen2_moe": "it is a mixture of experts",
    "qwen3_moe": "it is a mixture of experts",
    "lladamoe": "it is a mixture of experts",
    "llada2_moe": "it is a mixture of experts",
}
# Fields that say what a source is or how it was run, not what shape it has; windows of attention are checked.
_NOT_COPIED = ("architectures", "auto_map", "dtype", "id2label", "label2id", "model_type", "torch_dtype", "transformers_version",
               "use_cache", "layer_types", "sliding_window", "use_sliding_window", "max_window_layers")  # fmt: skip


def check_type(source: str, kind: str | None) -> None:
    """ValueError, with the reason, for a model of a type (`model_type` of its config) that the trunk cannot carry."""
    if kind not in _TRUNKS:
        reason = f": {_REASONS[kind]}" if kind in _REASONS else ""
        raise ValueError(
            f"{source!r} is of type {kind!r}; only types {', '.join(map(repr, _TRUNKS))} can be converted, as Llama, TinyLlama, SmolLM, "
            f"Mistral and Qwen have them, and the diffusion models LLaDA, Dream and dllm's a2d{reason}"
        )


def check_trunk(source: str, config: Any, context: int | None = None) -> None:
    """ValueError, with the reason, for an AR model that the trunk cannot carry.

    Args:
        source: its name, for the message.
        config: its configuration.
        context: tokens of the new model; None: those of `config`.
    """
    check_type(source, config.model_type)
    window = getattr(config, "sliding_window", None)
    context = config.max_position_embeddings if context is None else context
    if window is not None and context > window:
        raise ValueError(
            f"{source!r} has sliding_window={window}, but this library has no sliding window; "
            f"context_length={context} must be at most {window}"
        )


def trunk_fields(config: Any) -> dict[str, Any]:
    """Fields of an `MDLMConfig` with the shape of an AR model's `config`, or of an MDLM's."""
    values = {name: value for name, value in config.to_dict().items() if name not in _NOT_COPIED}
    return values | _TRUNKS.get(config.model_type, {})
