"""Where stories come from: formats, folders, splits, packed files and columns."""

import csv
import gzip
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_texts import STORIES, texts_of

from arche_mdlm.training.data.preparing import split_of
from arche_mdlm.training.data.sources import content_hash, is_files, open_source


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
    with pytest.raises(ValueError, match="has only the split 'train'"):
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
