"""The cache of prepared data: its key, workers, interruptions, damage, a full disk, and memory."""

import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap

import pytest
from prepared_texts import STORIES

from arche_mdlm.training.data import preparing, readers
from arche_mdlm.training.data.preparing import prepare_data
from arche_mdlm.training.data.tokenizers_io import train_bpe

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
