"""From a preset to a model: both arms, and a second AR baseline, from stock configurations."""

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from arche_mdlm.configuration.checks import check_family
from arche_mdlm.configuration.model_config import classes_of, make_config
from arche_mdlm.configuration.settings import ModelSettings, Preset
from arche_mdlm.training.models.ar_trunk import TYPES
from arche_mdlm.training.models.loading import load_config

_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def build_model(settings: ModelSettings, tokenizer: PreTrainedTokenizerBase | None = None) -> PreTrainedModel:
    """A freshly initialised model; special ids and the mask come from `tokenizer` (default: none set).

    Raises:
        ValueError: when the tokenizer has more entries than the model has rows.
    """
    ids = {}
    if tokenizer is not None:
        ids = {name: getattr(tokenizer, name) for name in _SPECIAL}
        entries = len(tokenizer)
        if settings.architecture != "mdlm" and tokenizer.mask_token_id == entries - 1:
            entries -= 1  # an AR model never sees the mask: the paper's lacks a row for it
        rows = settings.config.get("vocab_size") or entries
        if entries > rows:
            raise ValueError(f"the tokenizer has {entries} entries, more than model.config.vocab_size={rows}")
    if settings.architecture == "mdlm":
        ids["mask_token_id"] = tokenizer.mask_token_id if tokenizer is not None else settings.config["vocab_size"] - 1
    config = make_config(settings.architecture, settings.config, **ids)
    model = classes_of(settings.architecture)[1](config)
    if settings.initialisation == "pytorch":
        initialise_as_pytorch(model)
    elif settings.initialisation == "local":
        initialise_local_attention(model)
    return model


def model_of_checkpoint(source: str, preset: Preset, explicit: Collection[str]) -> ModelSettings:
    """The preset's model settings as the checkpoint has them that a fine-tuning starts from.

    Args:
        explicit: keys that the command line sets; those of `model.config` have to be the checkpoint's.

    Raises:
        ValueError: for a checkpoint of another arm (with what is possible), or a setting that is not the checkpoint's.
    """
    config, wanted = load_config(source), preset.model.architecture
    if config.model_type != wanted:
        raise ValueError(
            f"--init_from {source} holds a {config.model_type} model, but preset {preset.name!r} trains {wanted}: "
            + _way_out(source, config.model_type, wanted)
        )
    kept = {}
    for key, value in preset.model.config.items():
        own = (config.rope_parameters or {}).get("rope_theta") if key == "rope_theta" else getattr(config, key, None)
        if key == "attn_implementation":
            own = value  # the same weights, computed in another way
        if f"model.config.{key}" in explicit and value != own:
            raise ValueError(f"model.config.{key}={value!r}: the model of --init_from {source} has {own!r}")
        if own is not None:
            kept[key] = own
    if "model.initialisation" in explicit:
        raise ValueError("model.initialisation is only for a model trained from scratch, not for --init_from")
    names = ("diffusion", "prediction_offset", "denoiser")
    family = {name: getattr(config, name) for name in names if hasattr(config, name)}
    check_family(replace(preset, model=replace(preset.model, config=kept | family)))
    return replace(preset.model, config=kept, initialisation="default")


def _way_out(source: str, found: str, wanted: str) -> str:
    if found in TYPES and wanted == "mdlm":
        return f"make an MDLM of it with `arche-mdlm convert {source} NEW_FOLDER` and start from that, or choose a preset `-ar`"
    if found == "mdlm":
        return "an MDLM cannot become an AR model; choose a preset `-mdlm`"
    return (
        f"choose the preset of the same arm; `arche-mdlm convert` makes an MDLM of {', '.join(TYPES)}, not of {found}"
    )


@torch.no_grad()
def initialise_as_pytorch(model: PreTrainedModel) -> None:
    """The arche paper's initialisation, in place: PyTorch's defaults.

    Embeddings N(0, 1), which a tied head shares; linear layers Kaiming-uniform. Source: the paper's released code.
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
