"""Bad data and bad arguments are refused with their place."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_texts import STORIES

from arche_mdlm.training.data.preparing import prepare_data
from arche_mdlm.training.data.tokenizers_io import train_bpe

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
