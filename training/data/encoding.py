"""Texts to ids, in order and on several threads."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase


class Encoder:
    """Texts to ids with a private copy of the tokenizer's backend, so the caller's settings stay as they are."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, layout: str):
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(f"tokenizer={tokenizer!r:.80} must be a fast tokenizer (one with a `tokenizers` backend)")
        self.whole = layout != "windows"
        self.bos, self.eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        for name, token in (("bos_token", self.bos), ("eos_token", self.eos)):
            if self.whole and token is None:
                raise ValueError(f"the tokenizer has no {name}, which layout={layout!r} needs")
        self.backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        # Earlier calls with padding= or truncation= leave their traces in the backend.
        self.backend.no_padding()
        self.backend.no_truncation()
        identity = json.dumps([self.backend.to_str(), self.bos, self.eos])
        self.sha256 = hashlib.sha256(identity.encode()).hexdigest()
        self.backend.encode_special_tokens = True  # a "[MASK]" in a story must not become a mask

    def __call__(self, texts: list[str]) -> list[np.ndarray]:
        """Ids (n,) int32 of each text. Arrays at once: Arrow takes them as they are, and lists number by number."""
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        before, behind = ([self.bos], [self.eos]) if self.whole else ([], [])
        return [np.array([*before, *encoding.ids, *behind], dtype=np.int32) for encoding in encodings]

    def pieces(self, text: str, ids: np.ndarray, size: int) -> list[tuple[np.ndarray, int]]:
        """(ids, UTF-8 bytes) of a long text's consecutive rows, of `size` ids at most with the BOS before each."""
        starts = [start for start, _ in self.backend.encode(text, add_special_tokens=False).offsets]
        cuts = list(range(0, len(starts), size - 1))  # of the text's own tokens
        ends = [*cuts[1:], len(starts)]
        bounds = [0, *(starts[cut] for cut in cuts[1:]), len(text)]
        pieces = []
        for number, (start, end) in enumerate(zip(cuts, ends, strict=True)):
            # In `ids` the BOS is before them. The EOS goes behind the last row, or is left out where that is full.
            own = ids[start + 1 : min(end + 1 + (end == len(starts)), start + size)]
            raw = text[bounds[number] : bounds[number + 1]].encode("utf-8")
            pieces.append((np.concatenate([ids[:1], own]), len(raw)))
        return pieces


T = TypeVar("T")
E = TypeVar("E")


def in_order(
    encode: Callable[[list[T]], list[E]], texts: Iterator[T], num_workers: int, batch_size: int
) -> Iterator[tuple[T, E]]:
    """(text, its encoding) in order. Threads suffice, because the tokenizer releases the GIL; this avoids forking and pickling."""
    batches = iter(lambda: list(itertools.islice(texts, batch_size)), [])
    with ThreadPoolExecutor(num_workers) as pool:
        waiting: deque = deque()
        for batch in batches:
            waiting.append((batch, pool.submit(encode, batch)))
            if len(waiting) > num_workers:  # read no further ahead than the threads need
                done, ids = waiting.popleft()
                yield from zip(done, ids.result(), strict=True)
        for done, ids in waiting:
            yield from zip(done, ids.result(), strict=True)


@contextlib.contextmanager
def one_thread_a_call() -> Iterator[None]:
    """Leave the number of threads to `num_workers`: by default every call starts a thread a core."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("TOKENIZERS_PARALLELISM", None)
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
