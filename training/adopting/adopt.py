"""A diffusion model of others becomes a folder of ours: the same weights under our names, our code, and what its authors sample with."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers.dynamic_module_utils import custom_object_save

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
from arche_mdlm.training.adopting.card import write_adopted_card
from arche_mdlm.training.adopting.families import Family, family_of_config, fields_of
from arche_mdlm.training.adopting.source import CheckpointFiles, reading_config
from arche_mdlm.training.adopting.tokenizer import load_tokenizer
from arche_mdlm.training.adopting.weights import announced_size, check_room, look_up
from arche_mdlm.training.files.checkpointing import write_folder_atomically
from arche_mdlm.training.models.loading import set_generation_defaults


class Adopted(NamedTuple):
    """What `adopt` has written.

    Args:
        name: the kind of the source.
        parameters: numbers in the weights.
        dtype: of most of them, as in the source.
        shards: files of weights.
        ends: tokens that end a text or a turn.
        sampler: the sampler that `generate` takes by default.
    """

    name: str
    parameters: int
    dtype: torch.dtype
    shards: int
    ends: list[str]
    sampler: str


def adopt(
    files: CheckpointFiles, destination: Path, context_length: int | None = None, values: dict[str, Any] | None = None
) -> Adopted:
    """Write the folder of an MDLM with the weights of a LLaDA, Dream or a2d model. No code of the source runs, and of its weights one
    shard is in memory at a time.

    Args:
        files: the source.
        destination: the new folder, written atomically.
        context_length: tokens; None: the source's.
        values: its config.json, where that was read already.

    Raises:
        ValueError: before anything is written, for a source of another kind, switches that the trunk does not have, a tokenizer or weights that do
            not fit, and a disk without room.
        CheckpointError: where the folder cannot be written.
    """
    values = files.json("config.json") if values is None else values
    family = family_of_config(values)
    if family is None:
        raise ValueError(
            f"{files.source!r} is of type {values.get('model_type')!r}, which is not a supported diffusion model"
        )
    fields = fields_of(files.source, family, values, context_length)
    tokenizer, ends = load_tokenizer(files, values, fields["vocab_size"])
    with reading_config(files.source):
        model = _empty_model(fields, tokenizer)
    check_room(announced_size(files), destination)
    weights = look_up(files, family.rename, model)
    check_room(weights.size, destination)
    model.config.dtype = weights.dtype
    _set_writing(model, tokenizer, family, ends)
    shards = 0

    def write(folder: Path) -> None:
        nonlocal shards
        model.config.save_pretrained(folder)
        custom_object_save(model, folder, config=model.config)  # type: ignore[arg-type]  # a config, too
        model.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_adopted_card(folder, files, destination.name, family.name)
        shards = weights.write(folder)

    write_folder_atomically(destination, write)
    names = tokenizer.convert_ids_to_tokens(ends)
    return Adopted(family.name, weights.parameters, weights.dtype, shards, names, family.writing["sampler"])


def _empty_model(fields: dict[str, Any], tokenizer: Any) -> MDLMForMaskedDiffusion:
    """The model without weights; the tokenizer knows its context from here on."""
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad", "mask")}
    config = MDLMConfig(**fields | ids)
    config.architectures = [MDLMForMaskedDiffusion.__name__]
    tokenizer.model_max_length = config.max_position_embeddings
    with torch.device("meta"):
        return MDLMForMaskedDiffusion(config).eval()


def _set_writing(model: MDLMForMaskedDiffusion, tokenizer: Any, family: Family, ends: list[int]) -> None:
    """Generation defaults: what the authors sample with, as far as the context goes, and all tokens that end a text."""
    context = model.config.max_position_embeddings
    set_generation_defaults(model, tokenizer, context)
    settings = family.writing | {"eos_token_id": ends if len(ends) > 1 else ends[0], "max_length": None}
    settings["max_new_tokens"] = min(settings["max_new_tokens"], max(1, context // 2))
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
