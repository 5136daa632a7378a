"""The two tokenizers of the library, as plain transformers tokenizers that `AutoTokenizer` reloads without this package.

Both are byte-level BPE, so any text survives a round trip. Both put BOS in front of a text and never EOS behind it,
so that `model.generate(**tokenizer(prompt, return_tensors="pt"))` continues the prompt, and both pad on the left.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

BOS, EOS, PAD, MASK = "<|bos|>", "<|eos|>", "<|pad|>", "[MASK]"
GPT2_END = "<|endoftext|>"
NEEDED_TOKENS = ("bos", "eos", "pad", "mask")
# "fill the [MASK] here": without lstrip the space before the mask would be a token of its own.
_MASK_TOKEN = AddedToken(MASK, lstrip=True, special=True, normalized=False)


def gpt2_tokenizer(
    folder: str | Path, pad: str | None = None, model_max_length: int | None = None
) -> PreTrainedTokenizerFast:
    """GPT-2's BPE with `[MASK]` as id 50,257.

    Args:
        folder: holds `vocab.json` and `merges.txt`.
        pad: a pad token of its own, appended as id 50,258. None (default) keeps the 50,258 ids of the `controlled`
            preset; the pad is then `<|endoftext|>` (50,256), which is BOS and EOS as well. A story's tail is then
            filled with EOS, which ends it just the same: everything behind the first EOS is cut.
        model_max_length: the context in tokens, saved with the tokenizer.

    Raises:
        FileNotFoundError: a file is missing. ValueError: its content is not a GPT-2 vocabulary.
    """
    vocab_file, merges_file = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
    for file in (vocab_file, merges_file):
        if not file.is_file():
            raise FileNotFoundError(
                f"folder={str(folder)!r} has no {file.name}; GPT-2's vocab.json and merges.txt needed"
            )
    try:
        vocab = json.loads(vocab_file.read_text(encoding="utf-8"))
        merges = [
            cast(tuple[str, str], tuple(line.split()))
            for line in merges_file.read_text(encoding="utf-8").splitlines()
            if line and not line.startswith("#version")
        ]
        backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    except Exception as error:  # tokenizers raises plain Exception for a merge that is not in the vocabulary
        raise ValueError(f"folder={str(folder)!r} does not contain a readable GPT-2 vocabulary: {error}") from error
    if GPT2_END not in vocab:
        raise ValueError(f"{vocab_file} has no {GPT2_END!r}, which is BOS and EOS here")
    backend.add_special_tokens([AddedToken(GPT2_END, special=True, normalized=False), _MASK_TOKEN])
    if pad is not None:
        backend.add_special_tokens([AddedToken(pad, special=True, normalized=False)])
    return _wrap(backend, GPT2_END, GPT2_END, pad or GPT2_END, model_max_length)


def train_bpe(
    texts: Iterable[str], vocab_size: int = 4096, min_frequency: int = 2, model_max_length: int | None = None
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on `texts` (any iterable of str, read once; equal texts give an equal tokenizer).

    Ids 0 to 3 are `<|bos|>`, `<|eos|>`, `<|pad|>`, `[MASK]`, then the 256 bytes, then the merges; `len(tokenizer)` is
    `vocab_size`, or less where the corpus has too few pairs seen `min_frequency` times.

    Raises:
        ValueError: `vocab_size` under 260, `min_frequency` under 1, or no text at all.
    """
    if vocab_size < 260:
        raise ValueError(f"vocab_size={vocab_size} is too small: 4 special tokens and 256 bytes need at least 260")
    if min_frequency < 1:
        raise ValueError(f"min_frequency={min_frequency} must be at least 1")
    specials = [AddedToken(token, special=True, normalized=False) for token in (BOS, EOS, PAD)] + [_MASK_TOKEN]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    count = 0

    def counted() -> Iterable[str]:
        nonlocal count
        for text in texts:
            count += 1
            yield text

    backend.train_from_iterator(counted(), trainer=trainer)
    if not count:
        raise ValueError("texts is empty: a tokenizer needs at least one text to train on")
    return _wrap(backend, BOS, EOS, PAD, model_max_length)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise a ValueError that names each of the bos, eos, pad and mask tokens which `tokenizer` lacks."""
    missing = [f"{name}_token" for name in NEEDED_TOKENS if getattr(tokenizer, f"{name}_token_id", None) is None]
    if missing:
        hint = ', e.g. tokenizer.add_special_tokens({"mask_token": "[MASK]"})' if "mask_token" in missing else ""
        raise ValueError(f"the tokenizer {tokenizer.name_or_path!r} has no {', '.join(missing)}: set it first{hint}")


def _wrap(backend: Tokenizer, bos: str, eos: str, pad: str, model_max_length: int | None) -> PreTrainedTokenizerFast:
    """Give `backend` byte-level pieces and the BOS template, and wrap it for transformers."""
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, backend.token_to_id(bos))]
    )
    length = {} if model_max_length is None else {"model_max_length": model_max_length}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        mask_token=_MASK_TOKEN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        # No token_type_ids: neither arm takes them, and generate(**tokenizer(...)) must work.
        model_input_names=["input_ids", "attention_mask"],
        **length,
    )
