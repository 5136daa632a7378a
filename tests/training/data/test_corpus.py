"""Lengths of the rows, of all that are stored and of a selection."""

import json
from dataclasses import replace

import datasets
import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from arche_mdlm.configuration.settings import DataSettings
from arche_mdlm.training.data import corpus
from arche_mdlm.training.data.corpus import load_corpus, make_tokenizer, row_lengths, source_hashes
from arche_mdlm.training.data.preparing import split_windows

LENGTHS = np.random.default_rng(0).integers(1, 2000, size=1000)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """1,000 rows in several batches on the disk, 4 MB of ids."""
    path = tmp_path_factory.mktemp("rows") / "rows.arrow"
    schema = datasets.Features({"input_ids": datasets.List(datasets.Value("int32"))}).arrow_schema
    with path.open("wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for start in range(0, len(LENGTHS), 300):
            rows = [{"input_ids": list(range(n))} for n in LENGTHS[start : start + 300]]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
    return datasets.Dataset.from_file(str(path))


def test_lengths_of_all_rows(stored):
    assert row_lengths(stored).tolist() == LENGTHS.tolist()
    assert row_lengths(stored.select(range(310, 700))).tolist() == LENGTHS[310:700].tolist()


def test_lengths_of_a_selection_without_reading_a_row(stored, monkeypatch):
    train, validation = split_windows(stored, 0.1)
    assert train._indices is not None
    expected = [len(ids) for ids in train["input_ids"]]
    monkeypatch.setattr(datasets.Dataset, "__getitem__", lambda *_: pytest.fail("a row was read"))

    lengths = row_lengths(train)

    assert lengths.tolist() == expected
    assert sorted([*lengths, *row_lengths(validation)]) == sorted(LENGTHS)


def test_gpt2_of_the_hub_gets_a_mask(tmp_path, monkeypatch):
    """Its own tokenizer has none: the presets `controlled` and `arche-paper` name it by its id."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(["Once upon a time there was a little dog."] * 9, trainer)
    backend.add_special_tokens(["<|endoftext|>"])
    vocab = backend.get_vocab()
    backend.model = models.BPE(vocab, _merges(backend))
    hub = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    assert hub.mask_token is None
    monkeypatch.setattr(corpus.AutoTokenizer, "from_pretrained", lambda name: hub)

    tokenizer = make_tokenizer(DataSettings(tokenizer="gpt2"), "unused")

    assert tokenizer.mask_token_id == len(vocab) == len(tokenizer) - 1
    text = "Once upon a dog."
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == hub(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", ["ar-tinystories-mini", "checkpoints/mdlm-tinystories-mini"])
def test_the_tokenizer_of_a_shipped_model_goes_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert make_tokenizer(DataSettings(tokenizer=name), "unused").mask_token_id is not None


def _merges(backend) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]


def test_what_became_of_long_and_missing_texts_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHE_MDLM_CACHE", str(tmp_path / "cache"))
    texts = ["short one", "another one", "third", None, "x" * 90, "y" * 90, "fourth", "a fifth"]
    for name in ("train", "validation"):
        lines = [json.dumps({"text": text and f"{name} {text}"}) + "\n" for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    data = DataSettings(source=str(tmp_path), vocab_size=260, context_length=32)
    said = load_corpus(data).describe().splitlines()
    assert "5 texts" in said[0]
    assert "2 longer than 32 tokens and left out (--layout packed or --long_documents chunk keeps them)" in said[0]
    assert "1 without a text (null) left out" in said[1]
    said = load_corpus(replace(data, long_documents="chunk")).describe().splitlines()
    assert "7 texts" in said[0]
    assert "2 longer than 32 tokens and cut into several rows" in said[0]
    hashes = source_hashes(data)
    assert len({*hashes.values()}) == 2
    assert source_hashes(data, str(tmp_path / "validation.jsonl")) == hashes
