"""Data preparation, against hand counts on tiny corpora: every layout, the cache, the splits and bad input."""

import csv
import gzip
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hub_server import hub_environment, hub_server

from arche_mdlm.training.data import preparing, readers
from arche_mdlm.training.data.preparing import prepare_data, split_of, split_windows
from arche_mdlm.training.data.sources import content_hash, is_files, open_source
from arche_mdlm.training.data.tokenizers_io import train_bpe

BOS, EOS = 0, 1
STORIES = [f"Tim {n} saw a caf\u00e9 and {'ran ' * (n % 5)}home." for n in range(40)]


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


def texts_of(prepared, tokenizer):
    return [tokenizer.decode(ids, skip_special_tokens=True) for ids in prepared.dataset["input_ids"]]


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


# --- workers and cache ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", preparing.LAYOUTS)
def test_workers_change_nothing(prepare, write, layout, tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "BATCH_STORIES", 3)
    path, results = write(STORIES), []
    for workers in (1, 2, 5):
        results.append(
            prepare(path, layout=layout, num_workers=workers, cache_dir=tmp_path / str(workers), max_tokens=900)
        )
    for other in results[1:]:
        assert other.summary == results[0].summary
        assert other.dataset.to_list() == results[0].dataset.to_list()


def test_the_second_call_does_not_tokenise(prepare, write, tmp_path, monkeypatch):
    path = write(STORIES)
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    first = prepare(path)
    assert os.environ.get("TOKENIZERS_PARALLELISM") == before
    monkeypatch.setattr(preparing.Encoder, "__call__", lambda *_: pytest.fail("tokenised again"))
    copy = shutil.copy(path, tmp_path / "copy.jsonl")
    second, renamed = prepare(path, num_workers=2, progress=True), prepare(copy)
    assert second.summary == first.summary
    assert second.dataset.to_list() == first.dataset.to_list()
    assert second.dataset.cache_files  # memory-mapped, not in memory
    assert renamed.summary.cache_key == first.summary.cache_key
    assert renamed.summary.source == str(copy)


def test_the_key_covers_data_tokenizer_and_settings(prepare, write, tokenizer, tmp_path):
    path = write(STORIES)
    cache = tmp_path / "cache"
    settings = [
        {},
        {"layout": "packed"},
        {"layout": "windows"},
        {"context_length": 65},
        {"max_tokens": 500},
        {"min_characters": 25},
        {"validation_fraction": 0.3},
        {"validation_fraction": 0.3, "split": "validation"},
    ]
    keys = {prepare(path, **setting).summary.cache_key for setting in settings}
    keys.add(prepare_data(path, train_bpe(STORIES, 280), context_length=64, cache_dir=cache).summary.cache_key)
    keys.add(prepare(write([*STORIES, "one more"])).summary.cache_key)
    assert len(keys) == len(settings) + 2
    assert len(list((cache / "data").iterdir())) == len(keys)
    # padding= and truncation= of earlier calls are written into the backend, and must not count
    tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=3)
    after = prepare(write(STORIES)).summary
    assert after.cache_key in keys
    assert after.rows == len(STORIES)


def test_the_cache_directory_comes_from_the_environment(tokenizer, write, tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHE_MDLM_CACHE", str(tmp_path / "elsewhere"))
    prepared = prepare_data(write(STORIES), tokenizer, context_length=64)
    assert (tmp_path / "elsewhere" / "data" / prepared.summary.cache_key / "summary.json").is_file()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_an_interruption_leaves_nothing(prepare, write, tmp_path, monkeypatch, interruption):
    path = write(STORIES)
    monkeypatch.setattr(preparing, "BATCH_STORIES", 2)

    def broken(*_):
        yield from STORIES[:30]
        raise interruption("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(readers, "_read_json", broken)
        with pytest.raises(interruption):
            prepare(path)
    assert list((tmp_path / "cache" / "data").iterdir()) == []
    assert prepare(path).summary.rows == len(STORIES)


def test_a_damaged_cache_is_made_again(prepare, write, tmp_path, caplog):
    path = write(STORIES)
    first = prepare(path)
    rows = tmp_path / "cache" / "data" / first.summary.cache_key / "rows.arrow"
    whole = first.dataset.to_list()
    for damage in (rows.read_bytes()[: rows.stat().st_size // 2], b""):
        del first
        rows.unlink()
        rows.write_bytes(damage)
        first = prepare(path)
        assert first.dataset.to_list() == whole
        assert "damaged" in caplog.text
        caplog.clear()


def test_another_process_was_faster(prepare, write, monkeypatch):
    replace = os.replace

    def late(work, folder):
        shutil.copytree(work, folder)
        replace(work, folder)

    monkeypatch.setattr(preparing.os, "replace", late)
    assert prepare(write(STORIES)).summary.rows == len(STORIES)


# --- memory -----------------------------------------------------------------------------------------------------------

# Words of 99 letters: many bytes and few tokens, so that it takes seconds.
MEMORY_SCRIPT = """
import json, sys
from pathlib import Path
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from arche_mdlm.training.data.preparing import prepare_data

backend = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "?": 2}, unk_token="?"))
backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")

def peak():
    return next(int(line.split()[1]) / 1e3 for line in Path("/proc/self/status").open() if line.startswith("VmHWM"))

peaks = []
for megabytes in (6, 60):
    file = Path(f"{megabytes}.jsonl")
    with file.open("w") as out:
        for number in range(megabytes * 500):
            words = " ".join(f"{number * 20 + i:099}" for i in range(20))
            out.write(json.dumps({"text": words}) + chr(10))
    prepared = prepare_data(file, tokenizer, layout=sys.argv[1], context_length=32, num_workers=2, cache_dir="cache")
    assert prepared.summary.bytes > megabytes * 0.99e6, prepared.summary
    peaks.append(peak())
print(json.dumps(peaks))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's peak memory of a process")
@pytest.mark.parametrize("layout", ["rows", "packed"])
def test_a_large_file_takes_no_more_memory_than_a_small_one(tmp_path, layout):
    command = [sys.executable, "-c", textwrap.dedent(MEMORY_SCRIPT), layout]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert process.returncode == 0, process.stderr
    small, large = json.loads(process.stdout.splitlines()[-1])
    assert large - small < 30, "megabytes; the files have 6 and 60"


# --- sources ----------------------------------------------------------------------------------------------------------


def test_every_format_gives_the_same_stories(tmp_path, write, prepare):
    stories = ['He said "hi",\nand left.', "caf\u00e9; x,y", "third"]
    paths = [write(stories)]
    (tmp_path / "a.json").write_text(json.dumps([{"text": story} for story in stories], indent=1), encoding="utf-8")
    (tmp_path / "lines.json").write_text(paths[0].read_text(), encoding="utf-8")
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["text", "id"], *([story, 1] for story in stories)])
    pq.write_table(pa.table({"id": [1, 2, 3], "text": stories}), tmp_path / "a.parquet")
    (tmp_path / "a.txt").write_bytes("\ufeff\r\n{}\r\n\r\n \n{}\n\n{}".format(*stories).encode())
    (tmp_path / "marked.txt").write_text("{}\n<|endoftext|>\n{}<|endoftext|>{}".format(*stories), encoding="utf-8")
    paths += [tmp_path / name for name in ("a.json", "lines.json", "a.csv", "a.parquet", "a.txt", "marked.txt")]
    for path in paths:
        assert list(open_source(path)) == stories, path
    assert len({prepare(path).summary.sha256 for path in paths}) == 1


def test_marked_text_keeps_blank_lines(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\nstill one\n<|endoftext|>\ntwo\n<|endoftext|>\n")
    assert [story for story in open_source(tmp_path / "a.txt") if story] == ["one\n\nstill one", "two"]


def test_folders_have_splits_and_shards(write, prepare, tmp_path, tokenizer):
    write(["train"], "corpus/train.jsonl")
    write(["held out"], "corpus/validation.jsonl")
    write(["second"], "shards/train-00001-of-00002.jsonl")
    write(["first"], "shards/train-00000-of-00002.jsonl")
    assert texts_of(prepare(tmp_path / "corpus"), tokenizer) == ["train"]
    assert texts_of(prepare(tmp_path / "corpus", split="validation"), tokenizer) == ["held out"]
    assert list(open_source(tmp_path / "shards")) == ["first", "second"]
    with pytest.raises(FileNotFoundError, match=r"split='test'.*train\.jsonl, validation\.jsonl"):
        open_source(tmp_path / "corpus", split="test")
    (tmp_path / "corpus" / "train.txt").write_text("x")
    with pytest.raises(ValueError, match=r"\.txt, \.jsonl"):
        open_source(tmp_path / "corpus")


def test_split_by_story_is_disjoint_and_complete(write, prepare, tokenizer):
    stories = [*STORIES, *(f" {story}\n" for story in STORIES[:20])]  # the same stories again, spaced differently
    path = write(stories)
    parts = {split: prepare(path, validation_fraction=0.3, split=split) for split in ("train", "validation")}
    train, validation = (texts_of(part, tokenizer) for part in parts.values())
    assert not set(train) & set(validation)
    assert sorted(train + validation) == sorted(story.strip() for story in stories)
    assert validation == [text for story in stories if split_of(text := story.strip(), 0.3) == "validation"]
    assert 0.1 < len(set(validation)) / len(STORIES) < 0.5
    assert split_of("Once upon a time", 0.5) == "train"  # SHA-256 is the same everywhere: a fixed point
    small = [text for text in STORIES if split_of(text, 0.1) == "validation"]
    assert set(small) <= set(validation)  # a larger fraction only adds


def test_gzipped_files_are_read_as_what_they_are(tmp_path, write):
    plain = write(STORIES)
    (tmp_path / "a.txt").write_text("\n\n".join(STORIES), encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps([{"text": story} for story in STORIES]), encoding="utf-8")
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text"], *([story] for story in STORIES)])
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "train.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert list(open_source(tmp_path / "folder")) == STORIES
    for path in (plain, *(tmp_path / name for name in ("a.txt", "a.json", "a.csv"))):
        zipped = tmp_path / f"{path.name}.gz"
        zipped.write_bytes(gzip.compress(path.read_bytes()))
        assert list(open_source(zipped)) == STORIES, zipped


def test_several_files_are_one_split(tmp_path, write):
    first, second = write(STORIES[:3], "part-1.jsonl"), write(STORIES[3:5], "part-2.jsonl")
    (tmp_path / "more.txt").write_text(STORIES[5])
    assert list(open_source(tmp_path / "part-*.jsonl")) == STORIES[:5]
    assert list(open_source(f"{second}, {first},{tmp_path / 'mo*.txt'}")) == [*STORIES[3:5], *STORIES[:3], STORIES[5]]
    assert is_files(tmp_path / "part-*.jsonl")
    assert is_files(first)
    assert not is_files(tmp_path)
    assert not is_files("roneneldan/TinyStories")
    with pytest.raises(FileNotFoundError, match=r"no file '.*none-\*\.jsonl'"):
        open_source(f"{first},{tmp_path}/none-*.jsonl")
    with pytest.raises(ValueError, match="twice"):
        open_source(f"{first},{tmp_path}/part-*.jsonl")
    with pytest.raises(ValueError, match="is all 'train'"):
        open_source(tmp_path / "part-*.jsonl", split="validation")
    name = tmp_path / "a, b [1].jsonl"  # a file that is there wins over a pattern or a list
    shutil.copy(first, name)
    assert list(open_source(name)) == STORIES[:3]


def test_content_hashes_are_of_what_is_in_the_files(tmp_path, write):
    path = write(STORIES)
    before = content_hash(path, "train")
    assert content_hash(shutil.copy(path, tmp_path / "copy.jsonl"), "train") == before
    assert content_hash("roneneldan/TinyStories", "train") == "roneneldan/TinyStories"
    (tmp_path / "zipped.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert content_hash(tmp_path / "zipped.jsonl.gz", "train") == before
    with path.open("a") as file:
        file.write('{"text": "one more"}\n')
    assert content_hash(path, "train") != before


def test_nested_fields_by_dotted_path(tmp_path, prepare):
    rows = [{"story": {"text": "abc", "id": 1}}, {"story": {"text": "de", "id": 2}}, {"story": None}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    pq.write_table(pa.table({"story.text": ["abc", "de"]}), tmp_path / "literal.parquet")
    for name in ("a.jsonl", "a.parquet", "literal.parquet"):
        assert list(open_source(tmp_path / name, text_column="story.text")) == ["abc", "de"], name
    with pytest.raises(ValueError, match=r"no column text_column='story\.txt'; .*story\.text, story\.id"):
        prepare(tmp_path / "a.jsonl", text_column="story.txt")
    with pytest.raises(ValueError, match="no column text_column='story.txt'"):
        prepare(tmp_path / "a.parquet", text_column="story.txt")


def test_null_texts_are_left_out_and_counted(tmp_path, prepare):
    texts = ["abc", None, "de", None, ""]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        summary = prepare(tmp_path / name).summary
        assert (summary.stories, summary.null, summary.short_out) == (2, 2, 1), name
    parts = [prepare(tmp_path / "a.jsonl", validation_fraction=0.6, split=split) for split in ("train", "validation")]
    assert [part.summary.null for part in parts] == [2, 0]


def test_a_long_csv_field(tmp_path, prepare):
    story = "z" * 200_000
    (tmp_path / "a.csv").write_text(f"text\n{story}\n")
    assert prepare(tmp_path / "a.csv", layout="packed").summary.bytes == 200_000


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


# --- a cache that cannot be written -----------------------------------------------------------------------------------


def test_a_full_disk_leaves_no_cache(prepare, write, tmp_path):
    """A limit on the size of a file stands in for a full disk."""
    path = write([f"{n} " + "x" * 60 for n in range(3000)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=r"could not prepare data in the cache .*ARCHE_MDLM_CACHE"):
            prepare(path, context_length=100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "cache" / "data").iterdir()) == []
    assert prepare(path, context_length=100).summary.rows == 3000


def test_a_file_where_the_cache_should_be(write, tokenizer, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="could not prepare data in the cache"):
        prepare_data(write(STORIES), tokenizer, context_length=64, cache_dir=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layout": "row"}, "layout='row' unknown; allowed: rows, packed, windows"),
        ({"context_length": 3}, "context_length=3 must be a whole number of at least 4"),
        ({"context_length": 64.0}, "context_length=64.0"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"min_characters": -1}, "min_characters=-1"),
        ({"num_workers": 0}, "num_workers=0"),
        ({"split": "validation"}, "split='validation': the single file .* validation_fraction"),
        ({"split": "test", "validation_fraction": 0.1}, "split='test' unknown.*train and validation"),
        ({"validation_fraction": 1.0}, "validation_fraction=1.0"),
        ({"text_column": "story"}, "line 1: no column text_column='story'; the columns there are: text"),
        ({"min_characters": 999}, "no row left; of its texts 40 are shorter than min_characters=999"),
        (
            {"context_length": 4},
            "40 are longer than context_length=4 tokens; --layout packed .* --long_documents chunk",
        ),
        ({"max_tokens": 4}, "its first text has more than max_tokens=4 tokens"),
        ({"layout": "windows", "context_length": 9999}, r"fill no row of 9999 \(windows\)"),
    ],
)
def test_arguments_are_checked(prepare, write, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        prepare(write(STORIES), **settings)
    assert not list((tmp_path / "cache").glob("data/*"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "empty, it does not contain a story"),
        ("a.csv", b"text\n", "empty, it does not contain a story"),
        ("a.txt", b"\n \n", "empty, it does not contain a story"),
        ("a.jsonl", b'{"text": "ok"}\n{"text": "cut o', r"a\.jsonl, line 2: the file ends mid-line"),
        ("a.jsonl", b'{"text": "ok"}\n{bad}\n{"text": "ok"}\n', r"a\.jsonl, line 2: invalid JSON"),
        ("a.jsonl", b'{"text": "ok"}\n\n["text"]\n', r"line 3: expected an object with the column 'text', got list"),
        ("a.jsonl", b'{"text": "ok"}\n{"body": "x", "id": 1}\n', "line 2: no column .*: body, id"),
        ("a.jsonl", b'{"text": 5}\n', r"line 1: column 'text' holds int \(5\), not text"),
        ("a.jsonl", b'{"text": "a\\ud800"}\n', "line 1: column 'text' is not UTF-8 text: surrogates"),
        ("a.jsonl", b'{"text": "ok"}\n{"text": "caf\xe9"}\n', r"not UTF-8: byte 0xe9 at position 28 \(line 2\)"),
        ("a.txt", b"ok\n\n\xff\xfeo", r"a\.txt is not UTF-8: byte 0xff at position 4 \(line 3\)"),
        ("a.json", b'[{"text": "ok"},\n {"text": ]', r"a\.json, line 2: invalid JSON"),
        ("a.json", b'[{"text": null}, {"text": null}]', r"of its texts 2 have no text \(null\)"),
        ("a.json", b'[{"story": {"text": "ok", "id": 1}, "x": 2}]', "no column .*: story.text, story.id, x"),
        ("a.csv", b"id,text\n1,ok\n2\n", r"a\.csv, line 3: the line ends before the column 'text'"),
        ("a.jsonl.gz", b"no gzip", r"a\.jsonl\.gz is not a complete gzip file"),
        ("a.txt.gz", gzip.compress(b"some text that is cut off" * 9)[:-9], r"a\.txt\.gz is not a complete gzip file"),
        ("a.parquet.gz", b"x", r"suffix '\.gz'; allowed: .*and \.gz and \.zst of all but parquet"),
        ("a.csv", b"title,body\nx,y\n", "line 2: no column text_column='text'; .*: title, body"),
        ("a.csv", b'text\n"open', r"a\.csv, line 2: invalid CSV"),
        ("a.parquet", b"no parquet", r"a\.parquet is not a readable parquet file"),
        ("a.docx", b"x", r"suffix '\.docx'; allowed: \.txt, \.jsonl, \.json, \.csv, \.parquet"),
    ],
)
def test_bad_files(prepare, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path / name)
    assert not list((tmp_path / "cache").glob("data/*"))


def test_bad_parquet_columns(prepare, tmp_path):
    pq.write_table(pa.table({"text": [1, 2], "body": ["a", "b"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="no column text_column='story'; .*: text, body"):
        prepare(tmp_path / "a.parquet", text_column="story")
    with pytest.raises(ValueError, match=r"row 1: column 'text' holds int"):
        prepare(tmp_path / "a.parquet")
    assert prepare(tmp_path / "a.parquet", text_column="body").summary.rows == 2


def test_missing_sources(prepare, tmp_path):
    for source in (tmp_path / "no.jsonl", "no.jsonl", "a/b/c", "~/no such file"):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            prepare(source)
    with pytest.raises(ValueError, match="source='' is empty"):
        prepare("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match="there is: nothing"):
        prepare(tmp_path / "folder")


def test_tokenizers_without_bos_or_backend(write, tmp_path):
    bare = train_bpe(["x"], vocab_size=260)
    bare.bos_token = None
    settings = {"context_length": 8, "cache_dir": tmp_path / "cache"}
    with pytest.raises(ValueError, match="no bos_token, which layout='rows' needs"):
        prepare_data(write(STORIES), bare, **settings)
    assert prepare_data(write(STORIES), bare, layout="windows", **settings).summary.rows
    with pytest.raises(ValueError, match="must be a fast tokenizer"):
        prepare_data(write(STORIES), object(), **settings)


# --- the Hub ----------------------------------------------------------------------------------------------------------

HUB_SCRIPT = """
import json
import datasets, huggingface_hub
from huggingface_hub import HfApi
from arche_mdlm.training.data.preparing import prepare_data
from arche_mdlm.training.data.tokenizers_io import train_bpe

api, tokenizer = HfApi(), train_bpe(["x"], vocab_size=260)
api.create_repo("arche/stories", repo_type="dataset")

def push(stories):
    lines = "".join(json.dumps({"text": story, "id": 1}) + "\\n" for story in stories)
    api.upload_file(repo_id="arche/stories", repo_type="dataset", path_in_repo="train.jsonl", path_or_fileobj=lines.encode())

def prepare(cache="one", **settings):
    return prepare_data("arche/stories", tokenizer, context_length=64, cache_dir=cache, **settings)

def fail(kind, *words, source="arche/stories", **settings):
    try:
        prepare_data(source, tokenizer, context_length=64, cache_dir="failed", **settings)
    except kind as error:
        assert all(word in str(error) for word in words), error
    else:
        raise AssertionError(f"no {kind}")

push(["abc", "defg"])
first, streamed = prepare(), prepare("two", streaming=True, max_tokens=5)
assert first.summary.stories == 2 and first.dataset["num_bytes"][:] == [3, 4]
assert (streamed.summary.stories, streamed.summary.tokens) == (1, 5)
fail(ValueError, "text_column='story'", "text", text_column="story")
fail(ValueError, "split='test'", split="test")
fail(ValueError, "revision='v9'", revision="v9")
fail(FileNotFoundError, "arche/nothing", source="arche/nothing")

push(["abc", "defg", "hi"])
second = prepare()
assert second.summary.stories == 3 and second.summary.revision != first.summary.revision
assert prepare(revision=first.summary.revision).summary == first.summary

datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
assert prepare().summary == second.summary  # the commit that was found last
assert prepare("new", revision=second.summary.revision).summary == second.summary  # out of the cache of `datasets`
fail(FileNotFoundError, "arche/other", "Offline", "give a local file", source="arche/other")
fail(FileNotFoundError, "arche/stories", "another commit", revision="0" * 40)
print("done")
"""


def test_a_dataset_on_the_hub(tmp_path):
    with hub_server(tmp_path / "hub") as url:
        environment = hub_environment(url, home=tmp_path / "home")
        command = [sys.executable, "-c", textwrap.dedent(HUB_SCRIPT)]
        process = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "done"
