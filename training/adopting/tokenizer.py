"""The tokenizer of somebody's diffusion model, loaded without running code of theirs, with the roles that generation needs."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

from arche_mdlm.training.adopting.source import CheckpointFiles

_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
          "chat_template.json")  # fmt: skip
# With what a turn of a chat ends, if the chat template says so.
_TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>")
_ROLES = ("bos", "eos", "pad")


def load_tokenizer(files: CheckpointFiles, values: dict[str, Any], vocab_size: int) -> tuple[Any, list[int]]:
    """(tokenizer, ids that end a text or a turn). The tokenizer has a mask token; its chat template and pieces are the source's.

    Args:
        files: the checkpoint: tokenizer.json, or vocab.json and merges.txt as Qwen's and Dream's have them.
        values: its config.json.
        vocab_size: rows of the embedding.

    Raises:
        ValueError: if these files are missing or cannot be read, for a mask token that is in neither config.json nor the tokenizer, or
            another in both, and for more tokens than rows.
    """
    tokenizer = _load(files)
    if not 0 < len(tokenizer) <= vocab_size:
        raise ValueError(
            f"the tokenizer of {files.source!r} has {len(tokenizer)} tokens; the model has {vocab_size} rows"
        )
    _set_mask(tokenizer, files.source, values.get("mask_token_id"))
    for role in _ROLES:
        given = values.get(f"{role}_token_id")
        given = given[0] if isinstance(given, list) and given else given
        if getattr(tokenizer, f"{role}_token_id") is None and isinstance(given, int):
            setattr(tokenizer, f"{role}_token", tokenizer.convert_ids_to_tokens(given))
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{files.source!r} has no eos_token, neither in its tokenizer nor in config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer, _ends(tokenizer, values, files.json("generation_config.json"))


def _load(files: CheckpointFiles) -> Any:
    """From copies of the files, without the entries of tokenizer_config.json that name code."""
    settings = files.json("tokenizer_config.json")
    for name in ("auto_map", "tokenizer_class"):
        settings.pop(name, None)
    slow = {"vocab.json", "merges.txt"} <= set(files.names)
    if "tokenizer.json" not in files.names and not slow:
        raise ValueError(f"{files.source!r} has no tokenizer: neither tokenizer.json nor vocab.json and merges.txt")
    kind: Any = PreTrainedTokenizerFast if "tokenizer.json" in files.names else Qwen2Tokenizer
    with tempfile.TemporaryDirectory() as place:
        for name in _FILES:
            if name in files.names:
                shutil.copyfile(files.path(name), Path(place) / name)
        (Path(place) / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        try:
            # No token_type_ids: `generate(**tokenizer(text))` must work.
            return kind.from_pretrained(place, model_input_names=["input_ids", "attention_mask"])
        except Exception as error:  # tokenizers raises plain Exception
            text = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"the tokenizer of {files.source!r} cannot be read: {text}") from error


def _set_mask(tokenizer: Any, source: str, mask_id: Any) -> None:
    """Give the token of config.json's `mask_token_id` the role of the mask, in place."""
    own = tokenizer.mask_token_id
    if mask_id is not None and not isinstance(mask_id, int):
        raise ValueError(f"config.json of {source!r} has mask_token_id={mask_id!r}, which is not a token id")
    if mask_id is None and own is None:
        raise ValueError(f"{source!r} has no mask token, neither as mask_token_id in config.json nor in its tokenizer")
    if mask_id is None or mask_id == own:
        return
    if own is not None:
        raise ValueError(
            f"config.json of {source!r} has mask_token_id={mask_id}, but the mask of its tokenizer, {tokenizer.mask_token!r}, is id {own}"
        )
    token = tokenizer.convert_ids_to_tokens(mask_id) if 0 <= mask_id < len(tokenizer) else None
    if token is None or mask_id in [getattr(tokenizer, f"{role}_token_id") for role in _ROLES]:
        raise ValueError(
            f"config.json of {source!r} has mask_token_id={mask_id}, but its tokenizer has no added token with that id: the tokenizer belongs to another model"
        )
    tokenizer.mask_token = token


def _ends(tokenizer: Any, values: dict[str, Any], generation: dict[str, Any]) -> list[int]:
    """Ids that end a text: the tokenizer's, those of both configs, and the end of a turn in the chat template."""
    ends = [tokenizer.eos_token_id]
    for place in (values, generation):
        ids = place.get("eos_token_id")
        ends += ids if isinstance(ids, list) else [] if ids is None else [ids]
    template, vocabulary = str(tokenizer.chat_template or ""), tokenizer.get_vocab()
    ends += [vocabulary[token] for token in _TURN_ENDS if token in template and token in vocabulary]
    return list(dict.fromkeys(ends))
