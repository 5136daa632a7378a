"""Stories in files, and a call that prepares them."""

import json

import pytest

from arche_mdlm.training.data.preparing import prepare_data
from arche_mdlm.training.data.tokenizers_io import train_bpe


@pytest.fixture(scope="module")
def tokenizer():
    """Bytes and no merges: a story has as many tokens as UTF-8 bytes, which makes counting by hand easy."""
    return train_bpe(["x"], vocab_size=260)


@pytest.fixture
def write(tmp_path):
    """Write stories as JSON lines and give the path."""

    def writer(stories, name="stories.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps({"text": story}) + "\n" for story in stories), encoding="utf-8")
        return path

    return writer


@pytest.fixture
def prepare(tokenizer, tmp_path):
    def call(source, **settings):
        settings = {"context_length": 64, "cache_dir": tmp_path / "cache", **settings}
        return prepare_data(source, tokenizer, **settings)

    return call
