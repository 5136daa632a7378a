"""Text to training rows, bytes a second: ours from a file to memory-mapped rows, and the bare tokenizer on texts in memory."""

import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import AutoTokenizer

from arche_mdlm.training.data.preparing import prepare_data
from benchmarks.report import REPOSITORY

REPEATS = 12  # of the sample corpus, to measure more than the start
_SAMPLE = REPOSITORY / "training" / "sample" / "stories.jsonl"


@contextmanager
def workplace(repeats: int) -> Iterator[dict]:
    """The contestants, with a file and a cache that go away behind them. Every round of ours prepares an own copy of the
    text, so that nothing comes from the cache; the tokenizer is the shipped pair's."""
    tokenizer = AutoTokenizer.from_pretrained(REPOSITORY / "checkpoints" / "ar-tinystories-mini")
    texts = [json.loads(line)["text"] for line in _SAMPLE.read_text(encoding="utf-8").splitlines()] * repeats
    number, size = itertools.count(), sum(len(text.encode()) for text in texts)
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")

        def ours() -> None:
            cache = Path(folder) / f"cache{next(number)}"
            prepare_data(file, tokenizer, layout="rows", context_length=256, cache_dir=cache)

        def bare() -> None:
            tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)

        try:
            yield {"ours": (ours, size), "tokenizers": (bare, size)}
        finally:
            os.environ.pop("TOKENIZERS_PARALLELISM") if before is None else os.environ.update(
                TOKENIZERS_PARALLELISM=before
            )
