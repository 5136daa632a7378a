"""Loading either arm, its tokenizer and its defaults; saving them as a folder that loads anywhere."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

import arche_mdlm  # noqa: F401  (registers the auto classes)
from arche_mdlm.training.models.arms import arm_of


def load_config(folder_or_repo: str | Path) -> PreTrainedConfig:
    """The configuration of a checkpoint of either arm, without its weights; ValueError if it is missing."""
    source = checked_source(folder_or_repo)
    try:
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(f"could not load a checkpoint from {source!r}: {' '.join(str(error).split())}") from error


def checked_source(folder_or_repo: str | Path, revision: str | None = None) -> str:
    """A source as a string; ValueError for a folder without config.json, and for what can be neither folder nor repository, and for a
    folder with a `revision`."""
    source = str(folder_or_repo)
    path = Path(source)
    if revision is not None and path.exists():
        raise ValueError(f"revision={revision!r} is only for Hub repositories, but {source!r} is a folder")
    if path.is_dir() and not (path / "config.json").is_file():
        raise ValueError(f"{source!r} is a folder but not a checkpoint: config.json is missing")
    if not path.exists() and (source.startswith((".", "/", "~")) or source.count("/") > 1):
        raise ValueError(f"{source!r} does not exist (give a checkpoint folder, or a Hub repository like 'user/name')")
    return source


# What the libraries raise for files that are missing, damaged, or of another shape than the configuration says.
_UNLOADABLE = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError)


def load_arm(
    folder_or_repo: str | Path, dtype: torch.dtype | str = torch.float32, revision: str | None = None
) -> tuple[Any, Any]:
    """(model, tokenizer) of a checkpoint of either arm; `revision`: branch, tag or commit of a repository.

    Raises:
        ValueError: if the folder is not a checkpoint, or weights are missing.
    """
    source = checked_source(folder_or_repo, revision)
    at = {} if revision is None else {"revision": revision}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, output_loading_info=True, **at)
        model, info = loaded
        tokenizer = AutoTokenizer.from_pretrained(source, **at)
    except _UNLOADABLE as error:
        raise ValueError(f"could not load a checkpoint from {source!r}: {' '.join(str(error).split())}") from error
    if info["missing_keys"]:
        raise ValueError(
            f"the checkpoint {source!r} is incomplete: it lacks weights for {', '.join(sorted(info['missing_keys']))}"
        )
    return model, tokenizer


def context_length(model: Any) -> int:
    """The most tokens that the model writes, BOS and EOS counted."""
    return model.generation_config.max_length or model.config.max_position_embeddings


def set_generation_defaults(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, context_length: int) -> None:
    """Write explicit sampling defaults (temperature 1, no truncation) into `model.generation_config`.

    Without them transformers samples from the top 50 tokens, and its pipeline at temperature 0.7.
    """
    defaults = {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "max_length": context_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    kind = type(model.generation_config)
    model.generation_config = kind(**arm_of(model).generation_config(tokenizer, defaults))


def save_arm(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    dtype: torch.dtype | None = None,
    state: dict[str, torch.Tensor] | None = None,
) -> None:
    """Save weights, configuration, remote code, generation defaults and tokenizer into `folder`.

    `dtype` rounds the saved weights only; the model stays as it is. `state` has the weights, by default the model's. The
    saved tokenizer knows the model's context (`model_max_length`, for `truncation=True`), the given one stays as it is.
    """
    state = dict(model.state_dict() if state is None else state)
    if dtype is not None:
        rounded: dict[int, torch.Tensor] = {}  # by address: a tied head stays one tensor, and is saved once
        for name, value in state.items():
            if value.is_floating_point():
                state[name] = rounded.setdefault(value.data_ptr(), value.to(dtype))
    kept = model.config.dtype
    try:
        if dtype is not None:
            model.config.dtype = dtype
        model.save_pretrained(folder, state_dict=state)
    finally:
        model.config.dtype = kept
    length = tokenizer.model_max_length
    try:
        tokenizer.model_max_length = getattr(model.config, "max_position_embeddings", length)
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.model_max_length = length
