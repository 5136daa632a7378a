"""Data preparation, against hand counts on tiny corpora: every layout, budgets and long documents."""

import hashlib

import pytest
import torch
from prepared_texts import BOS, EOS, STORIES, texts_of

from arche_mdlm.training.data import preparing
from arche_mdlm.training.data.preparing import prepare_data, split_windows
from arche_mdlm.training.data.tokenizers_io import train_bpe

# --- layouts ----------------------------------------------------------------------------------------------------------


def test_rows_by_hand(prepare, write, tokenizer):
    stories = ["abc", "  d\u00e9f \n", "", "   ", "x" * 63, "y" * 62]
    dataset, summary = prepare(write(stories))
    taken = ["abc", "d\u00e9f", "y" * 62]  # 62 bytes, BOS and EOS fill the 64; 63 do not fit
    ids = [[BOS, *tokenizer(text, add_special_tokens=False)["input_ids"], EOS] for text in taken]
    assert dataset["input_ids"][:] == ids
    assert dataset["num_bytes"][:] == [3, 4, 62]
    assert (summary.rows, summary.stories, summary.left_out, summary.short_out) == (3, 3, 1, 2)
    assert (summary.tokens, summary.bytes, summary.tail_tokens) == (3 + 4 + 62 + 6, 69, 0)
    assert summary.sha256 == hashlib.sha256("".join(text + "\0" for text in taken).encode()).hexdigest()
    assert dataset.features["input_ids"].feature.dtype == "int32"
    assert summary.to_dict()["layout"] == "rows"


def test_min_characters(prepare, write):
    dataset, summary = prepare(
        write(["x" * 50, "\u00e9" * 51, " " + "y" * 50 + " "]), min_characters=51, context_length=128
    )
    assert (summary.stories, summary.short_out) == (1, 2)
    assert dataset["num_bytes"][:] == [102]  # characters are counted, not bytes; and stripped ones


def test_packed_keeps_the_boundaries(prepare, write, tokenizer):
    dataset, summary = prepare(write(STORIES), layout="packed", context_length=50)
    documents = [[BOS, *tokenizer(text, add_special_tokens=False)["input_ids"], EOS] for text in STORIES]
    stream = sum(documents, [])
    assert summary.tokens == len(stream)
    assert summary.tail_tokens == len(stream) % 50
    assert summary.rows == len(dataset) == len(stream) // 50
    assert sum(dataset["input_ids"], []) == stream[: 50 * len(dataset)]
    for ids, owners in zip(dataset["input_ids"], dataset["document_ids"], strict=True):
        assert (len(ids), owners[0]) == (50, 0)
        for i in range(1, 50):
            assert owners[i] - owners[i - 1] == (ids[i] == BOS)  # a new story, and only there
            assert (ids[i] == BOS) == (ids[i - 1] == EOS)


def test_a_story_longer_than_several_packed_rows(prepare, write):
    dataset, summary = prepare(write(["z" * 30]), layout="packed", context_length=8)
    assert (len(dataset), summary.tail_tokens, summary.left_out) == (4, 0, 0)
    assert dataset["document_ids"][:] == [[0] * 8] * 4


def test_windows_are_the_concatenation(prepare, write, tokenizer):
    stories = ["  " + story + "\n" for story in STORIES] + ["short"]
    dataset, summary = prepare(write(stories), layout="windows", context_length=32, min_characters=10)
    stream = tokenizer("".join(STORIES), add_special_tokens=False)["input_ids"]
    assert dataset["input_ids"][:] == [stream[i : i + 32] for i in range(0, len(stream) - 31, 32)]
    assert dataset.column_names == ["input_ids"]
    assert (summary.tokens, summary.short_out) == (len(stream), 1)


def test_split_windows_is_the_permutation_of_seed_42(prepare, write):
    dataset, _ = prepare(write(STORIES), layout="windows", context_length=16)
    train, validation = split_windows(dataset, fraction=0.1)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(42)).tolist()
    count = len(dataset) // 10
    assert validation["input_ids"][:] == [dataset[i]["input_ids"] for i in order[:count]]
    assert train["input_ids"][:] == [dataset[i]["input_ids"] for i in order[count:]]
    with pytest.raises(ValueError, match="fraction=1"):
        split_windows(dataset, fraction=1)
    with pytest.raises(ValueError, match="leaves none"):
        split_windows(dataset, fraction=1e-6)


def test_special_tokens_spelt_in_a_story_are_text(prepare, write, tokenizer):
    story = "a [MASK] b <|eos|> c <|bos|>"
    prepared = prepare(write([story]))
    assert prepared.dataset[0]["input_ids"] == [
        BOS,
        *tokenizer.convert_tokens_to_ids([*story.replace(" ", "\u0120")]),
        EOS,
    ]
    assert texts_of(prepared, tokenizer) == [story]


@pytest.mark.parametrize("layout", ["rows", "packed"])
def test_budget_takes_a_prefix_and_is_not_exceeded(prepare, write, layout):
    path = write(["a" * 10, "b" * 10, "c" * 30, "d"])
    _, summary = prepare(path, layout=layout, max_tokens=24, context_length=8 if layout == "packed" else 64)
    assert (summary.stories, summary.tokens) == (2, 24)
    _, summary = prepare(path, layout=layout, max_tokens=55, context_length=8 if layout == "packed" else 64)
    assert (summary.stories, summary.tokens) == (2, 24)  # "c" would exceed it, and "d" behind it is not taken


def test_budget_cuts_windows_exactly(prepare, write):
    dataset, summary = prepare(write(["a" * 10, "b" * 10]), layout="windows", context_length=4, max_tokens=12)
    assert (len(dataset), summary.tokens, summary.stories) == (3, 12, 2)


def test_nothing_behind_the_budget_is_read(prepare, write, monkeypatch):
    monkeypatch.setattr(preparing, "BATCH_STORIES", 2)
    path = write(STORIES)
    with path.open("a") as file:
        file.write("{broken")
    assert prepare(path, max_tokens=100).summary.stories < 10


# --- long documents ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [6, 7, 8, 12, 13, 14, 100])
def test_chunks_by_hand(prepare, write, length):
    """Each row begins with a BOS, the last one ends with the EOS if there is room; no byte and no token is lost."""
    story = "".join(chr(ord("a") + i % 26) for i in range(length))
    dataset, summary = prepare(write(["no", story]), context_length=8, long_documents="chunk")
    rows = dataset["input_ids"][1:]
    assert all(row[0] == BOS and len(row) <= 8 for row in rows)
    assert all(len(row) == 8 for row in rows[:-1])
    assert EOS not in sum(rows[:-1], [])
    inside = sum((row[1:] for row in rows), [])
    full = length % 7 == 0 and length > 6  # no room for the EOS: a row of BOS and EOS alone would be an empty story
    assert (inside[-1] == EOS) == (not full)
    assert len(inside) == length + (not full)
    assert sum(dataset["num_bytes"][1:]) == length
    assert summary.chunked == (length > 6)
    assert summary.left_out == 0
    assert summary.tokens == sum(len(row) for row in dataset["input_ids"])
    assert (summary.stories, summary.bytes) == (2, length + 2)


def test_chunks_of_merged_and_many_byte_tokens(write, tmp_path):
    story = "caf\u00e9 \U0001f600 na\u00efve. " * 20
    own = train_bpe([story] * 3, vocab_size=280)
    dataset, summary = prepare_data(
        write([story]), own, context_length=16, long_documents="chunk", cache_dir=tmp_path / "cache"
    )
    pieces = [own.decode(row, skip_special_tokens=True) for row in dataset["input_ids"]]
    ids = [i for row in dataset["input_ids"] for i in row if i not in (BOS, EOS)]
    assert ids == own(story.strip(), add_special_tokens=False)["input_ids"]
    assert sum(dataset["num_bytes"]) == summary.bytes == len(story.strip().encode())
    for piece, size in zip(pieces, dataset["num_bytes"], strict=True):
        assert abs(len(piece.encode()) - size) <= 12  # a character cut in two counts on one side


def test_chunks_change_nothing_for_short_stories(prepare, write):
    path = write(STORIES)
    plain, chunked = prepare(path), prepare(path, long_documents="chunk")
    assert plain.dataset.to_list() == chunked.dataset.to_list()
    assert plain.summary.cache_key != chunked.summary.cache_key
    with pytest.raises(ValueError, match="is for layout='rows'; 'packed' keeps every token"):
        prepare(path, long_documents="chunk", layout="packed")
    with pytest.raises(ValueError, match="long_documents='cut' unknown; allowed: drop, chunk"):
        prepare(path, long_documents="cut")
