"""From a preset to a model: both arms, and a second AR baseline, out of stock configurations."""

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
from arche_mdlm.configuration.presets import ModelSettings

_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def build_model(settings: ModelSettings, tokenizer=None) -> PreTrainedModel:
    """A freshly initialised model; special ids and the mask come from `tokenizer` (default: none set).

    Raises:
        ValueError: when the tokenizer has more entries than the model has rows.
    """
    values = dict(settings.config)
    if tokenizer is not None:
        values |= {name: getattr(tokenizer, name) for name in _SPECIAL}
        if len(tokenizer) > values.get("vocab_size", len(tokenizer)):
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} entries, more than model.config.vocab_size={values['vocab_size']}"
            )
    if settings.architecture == "mdlm":
        mask = tokenizer.mask_token_id if tokenizer is not None else values["vocab_size"] - 1
        model = MDLMForMaskedDiffusion(MDLMConfig(mask_token_id=mask, **values))
    elif settings.architecture == "llama":
        model = LlamaForCausalLM(LlamaConfig(**values))
    else:
        model = GPT2LMHeadModel(GPT2Config(**_gpt2_names(values)))
    if settings.initialisation == "pytorch":
        initialise_as_pytorch(model)
    elif settings.initialisation == "local":
        initialise_local_attention(model)
    return model


def _gpt2_names(values: dict) -> dict:
    """GPT-2's own names for the fields that both families have; the rest has no counterpart there."""
    renamed = {
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
    }
    return {
        renamed.get(key, key): value for key, value in values.items() if key not in ("rms_norm_eps", "attention_bias")
    }


@torch.no_grad()
def initialise_as_pytorch(model: PreTrainedModel) -> None:
    """The arche paper's initialisation, in place: PyTorch's defaults.

    Embeddings N(0, 1), which a tied head shares; linear layers Kaiming-uniform. Source: the paper's released code, as
    FORMULAS.md has it.
    """
    head = model.get_output_embeddings()
    tied = head is not None and head.weight is model.get_input_embeddings().weight
    for module in model.modules():
        if isinstance(module, nn.Embedding) or (isinstance(module, nn.Linear) and not (tied and module is head)):
            module.reset_parameters()
    model.tie_weights()


@torch.no_grad()
def initialise_local_attention(model: PreTrainedModel, peak: float = 8.0, lowest_frequency: float = 0.1) -> None:
    """Let head h start by looking at a neighbour: offsets -1, 1, -2, 2, ... (our own; of a Llama-type model, in place).

    A masked position's query is the same everywhere, so a diffusion model finds its neighbours only by position, and a
    small one needs many hundred steps for that. With biases c (cos(w o), sin(w o)) in the query and c (1, 0) in the key,
    RoPE turns their product into `peak` times the mean of cos(w (d - o)) over the frequencies w: a bump at distance o.
    Low frequencies, which would make the bump wide, are left out. Training is free to change it.

    Raises ValueError for a model without attention biases.
    """
    inverse = getattr(getattr(model, "model", None), "rotary_emb", None)
    if inverse is None or not model.config.attention_bias:
        raise ValueError("model.initialisation='local' needs a Llama-type model with model.config.attention_bias=true")
    inverse = inverse.inv_freq.cpu()
    used = (inverse >= lowest_frequency).float()
    heads, size = model.config.num_attention_heads, model.config.head_dim
    scale = (peak * size**0.5 / used.sum()).sqrt()
    offsets = [(h // 2 + 1) * (-1 if h % 2 == 0 else 1) for h in range(heads)]
    query = torch.stack([torch.cat([used * torch.cos(inverse * o), used * torch.sin(inverse * o)]) for o in offsets])
    key = torch.cat([used, torch.zeros_like(used)]).expand(model.config.num_key_value_heads, size)
    for layer in model.model.layers:
        layer.self_attn.q_proj.bias.copy_((scale * query).flatten())
        layer.self_attn.k_proj.bias.copy_((scale * key).flatten())
