"""Saved data sets, Zstandard files, configurations of the Hub, and sources that are mixed by weights."""

import json
import subprocess
import sys
import textwrap
from collections import Counter

import datasets
import pyarrow as pa
import pytest
from hub_server import hub_environment, hub_server

from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.configuration.settings import DataSettings
from arche_mdlm.training.data.corpus import load_corpus, source_hashes
from arche_mdlm.training.data.formats import Conversation, Exchange, Format
from arche_mdlm.training.data.mixing import open_mixture
from arche_mdlm.training.data.preparing import prepare_data
from arche_mdlm.training.data.sources import content_hash, is_files, open_source
from arche_mdlm.training.data.tokenizers_io import train_bpe

STORIES = [f"story {n}" for n in range(30)]


def packed(path, content: bytes) -> None:
    with pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd") as file:
        file.write(content)


def lines(texts) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


# --- Zstandard --------------------------------------------------------------------------------------------------------


def test_zstandard_files_are_read_as_what_they_are(tmp_path):
    contents = {
        "a.jsonl": lines(STORIES), "a.txt": "\n\n".join(STORIES).encode(), "a.csv": "\n".join(["text", *STORIES]).encode(),
        "a.json": json.dumps([{"text": story} for story in STORIES]).encode(),
    }  # fmt: skip
    for name, content in contents.items():
        packed(tmp_path / f"{name}.zst", content)
        assert list(open_source(tmp_path / f"{name}.zst")) == STORIES, name
    (tmp_path / "a.jsonl").write_bytes(contents["a.jsonl"])
    assert content_hash(tmp_path / "a.jsonl.zst", "train") == content_hash(tmp_path / "a.jsonl", "train")
    frame = (tmp_path / "a.txt.zst").read_bytes()
    (tmp_path / "two.txt.zst").write_bytes(frame + frame)  # as `cat` makes one of two
    assert len(list(open_source(tmp_path / "two.txt.zst"))) == 59, (
        "the last text of the first meets the first of the second"
    )


@pytest.mark.parametrize("name", ["cut.jsonl.zst", "none.txt.zst"])
def test_damaged_zstandard_files(tmp_path, name):
    packed(tmp_path / name, lines(STORIES * 99))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2] if name.startswith("cut") else b"plain text")
    with pytest.raises(ValueError, match=rf"{name} is not a complete Zstandard file"):
        list(open_source(tmp_path / name))
    with pytest.raises(ValueError, match=rf"{name} is not a complete Zstandard file"):
        content_hash(tmp_path / name, "train")


# --- save_to_disk -----------------------------------------------------------------------------------------------------


def test_a_saved_dataset_with_splits(tmp_path):
    parts = {"train": STORIES[:20], "validation": STORIES[20:]}
    saved = datasets.DatasetDict({split: datasets.Dataset.from_dict({"text": texts}) for split, texts in parts.items()})
    saved.save_to_disk(tmp_path / "saved", num_shards={"train": 3, "validation": 1})
    assert list(open_source(tmp_path / "saved")) == STORIES[:20]
    assert list(open_source(tmp_path / "saved", split="validation")) == STORIES[20:]
    assert not is_files(tmp_path / "saved")
    with pytest.raises(ValueError, match="no split='test', but train, validation"):
        open_source(tmp_path / "saved", split="test")
    assert len(open_source(tmp_path / "saved").files) == 3
    open_source(tmp_path / "saved").files[1].unlink()
    with pytest.raises(FileNotFoundError, match="is incomplete: data-00001-of-00003.arrow is missing"):
        open_source(tmp_path / "saved")


def test_a_saved_dataset_without_splits(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHE_MDLM_CACHE", str(tmp_path / "cache"))
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]} for text in STORIES
    ]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    assert is_files(tmp_path / "saved")
    with pytest.raises(ValueError, match="has only the split 'train'"):
        open_source(tmp_path / "saved", split="validation")
    items = list(open_source(tmp_path / "saved", form=Format("auto")).items())
    assert [item.messages for item in items] == [row["messages"] for row in rows]
    with pytest.raises(ValueError, match="is one file: give --validation_data FILE, or --validation_fraction"):
        load_corpus(DataSettings(str(tmp_path / "saved"), vocab_size=260))
    (tmp_path / "chat.jinja").write_text("{{ bos_token }}{% for m in messages %}{{ m['content'] }}|{% endfor %}")
    settings = {"vocab_size": 260, "chat_template": str(tmp_path / "chat.jinja"), "context_length": 40}
    corpus = load_corpus(DataSettings(str(tmp_path / "saved"), validation_fraction=0.3, **settings))
    assert len(corpus.train.dataset) + len(corpus.validation.dataset) == 30
    datasets.Dataset.from_list(rows[:3]).save_to_disk(tmp_path / "held_out")
    apart = load_corpus(DataSettings(str(tmp_path / "saved"), **settings), str(tmp_path / "held_out"), corpus.tokenizer)
    assert (len(apart.train.dataset), len(apart.validation.dataset)) == (30, 3)
    assert source_hashes(DataSettings(str(tmp_path / "saved")), str(tmp_path / "held_out"))["validation"]


# --- mixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path):
    for name, count in (("a", 4000), ("b", 4000), ("c", 50)):
        (tmp_path / f"{name}.jsonl").write_bytes(lines(f"{name} {n}" for n in range(count)))
    return ",".join(str(tmp_path / f"{name}.jsonl") for name in "abc")


def test_sources_are_drawn_by_their_weights(three):
    two = three.rpartition(",")[0]
    found = list(open_mixture(two, [3, 1]))
    assert Counter(text[0] for text in found)["a"] == 4000, "until the first source has no more"
    head = Counter(text[0] for text in found[:4000])
    assert abs(head["a"] - 3000) < 4 * (4000 * 0.75 * 0.25) ** 0.5
    assert [text for text in found if text[0] == "b"] == [f"b {n}" for n in range(len(found) - 4000)], (
        "each in its order"
    )
    assert list(open_mixture(two, [3, 1])) == found
    assert open_mixture(two, [3, 1]).fingerprint() != open_mixture(two, [1, 3]).fingerprint()


def test_short_sources_are_repeated_or_end_the_mixture(three):
    found = list(open_mixture(three, [0.4, 0.4, 0.2]))
    assert Counter(text[0] for text in found)["c"] == 50
    assert len(found) < 600
    whole = Counter(text for text in open_mixture(three, [0.4, 0.4, 0.2], "all_exhausted"))
    assert len(whole) == 8050
    assert whole["c 0"] > 10


def test_conversations_and_prompts_survive_the_mixing(tmp_path):
    rows = [[{"prompt": "a", "completion": "b"}], [{"messages": [{"role": "user", "content": "a", "name": "Tom"}]}]]
    for name, own in zip("ab", rows, strict=True):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own * 20))
    items = list(open_mixture(f"{tmp_path}/a.jsonl,{tmp_path}/b.jsonl", [1, 1], form=Format("auto")).items())
    assert {type(item) for item in items} == {Exchange, Conversation}
    assert all(item.messages == rows[1][0]["messages"] for item in items if isinstance(item, Conversation))


def test_a_mixture_is_prepared_and_its_held_out_text_is_all_of_it(three, tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHE_MDLM_CACHE", str(tmp_path / "cache"))
    data = DataSettings(three, weights=(1.0, 1.0, 1.0), validation_fraction=0.2, vocab_size=260, context_length=16)
    corpus = load_corpus(data)
    held_out = {corpus.tokenizer.decode(ids[1:-1]) for ids in corpus.validation.dataset["input_ids"]}
    assert len(held_out) == len(corpus.validation.dataset)
    assert abs(len(held_out) - 0.2 * 8050) < 200
    assert not held_out & {corpus.tokenizer.decode(ids[1:-1]) for ids in corpus.train.dataset["input_ids"]}
    assert len(source_hashes(data)["train"].split(",")) == 3


WEIGHTS = {
    "a weight of 0": ("a,b", [1, 0], "must be above 0"),
    "too few": ("a,b", [1], r"data.weights=\[1\] are 1 for the 2 sources a, b"),
    "too many": ("a", [1, 2], "are 2 for the 1 sources a"),
    "a negative one": ("a,b", [1, -1], "must be above 0"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_do_not_fit(case):
    source, weights, message = WEIGHTS[case]
    with pytest.raises(ValueError, match=message):
        open_mixture(source, weights)


def test_texts_and_prompts_are_not_mixed(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(STORIES))
    (tmp_path / "b.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 30)
    for names in ("ab", "ba"):
        source = ",".join(str(tmp_path / f"{name}.jsonl") for name in names)
        with pytest.raises(ValueError, match="they cannot be mixed"):
            prepare_data(source, train_bpe(["x"], 260), weights=[1, 1], form=Format("auto"), context_length=32,
                         cache_dir=tmp_path / "cache")  # fmt: skip


SETTINGS = {
    "a weight of 0": ({"data.weights": [1.0, 0.0]}, "data.weights=0.0 must be above 0"),
    "an unknown format": ({"data.format": "chat"}, "data.format='chat' is not one of auto, text, prompt, messages"),
    "an unknown end": ({"data.stopping": "never"}, "data.stopping='never' is not one of"),
    "what becomes of long answers": ({"data.long_answers": "cut"}, "data.long_answers='cut' is not one of error, drop"),
    "prompts in windows": ({"data.format": "prompt", "data.layout": "packed"}, "data.format='prompt' needs data.layout='rows'"),
    "a template without columns": ({"data.template": "text"}, "has no column in braces"),
    "a template of braces alone": ({"data.template": "{{}}"}, "names no column"),
    "a template that does not close": ({"data.template": "{title"}, "is not a template"),
    "a template with a format": ({"data.template": "{title!r}"}, "braces may contain only the name of a column"),
    "a template and a column": ({"data.template": "{a}", "data.text_column": "b"}, "both define the text"),
    "epochs and steps": ({"training.epochs": 2, "training.max_steps": 9}, "both set the length of training"),
    "no epochs": ({"training.epochs": 0}, "training.epochs=0 must be above 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_cannot_be_right(case):
    changes, message = SETTINGS[case]
    with pytest.raises(ValueError, match=message):
        load_preset("quickstart-mdlm", changes)


# --- configurations of the Hub ----------------------------------------------------------------------------------------

HUB_SCRIPT = """
import json
from huggingface_hub import HfApi
from arche_mdlm.training.data.preparing import prepare_data
from arche_mdlm.training.data.tokenizers_io import train_bpe

api, tokenizer = HfApi(), train_bpe(["x"], vocab_size=260)
api.create_repo("arche/wiki", repo_type="dataset")
card = "---\\nconfigs:\\n" + "".join(f"- config_name: {n}\\n  data_files: {n}/train.jsonl\\n" for n in ("small", "large")) + "---\\n"
files = {"README.md": card, "small/train.jsonl": '{"text": "abc"}\\n', "large/train.jsonl": '{"text": "abc"}\\n{"text": "de"}\\n'}
for path, content in files.items():
    api.upload_file(repo_id="arche/wiki", repo_type="dataset", path_in_repo=path, path_or_fileobj=content.encode())

def stories(source="arche/wiki", **settings):
    summary = prepare_data(source, tokenizer, context_length=64, cache_dir="cache", **settings).summary
    return summary.stories, summary.cache_key

small, large = stories(config="small"), stories(config="large")
assert (small[0], large[0]) == (1, 2) and small[1] != large[1]
assert stories("arche/wiki:large", streaming=True) == large
for settings, words in (({}, ["small", "large", "name it by data.config"]),
                        ({"config": "small", "source": "arche/wiki:large"}, ["both set a configuration"])):
    try:
        stories(**settings)
    except ValueError as error:
        assert all(word in str(error) for word in words), error
    else:
        raise AssertionError(settings)
print("done")
"""


def test_configurations_of_a_dataset_on_the_hub(tmp_path):
    with hub_server(tmp_path / "hub") as url:
        process = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(HUB_SCRIPT)], env=hub_environment(url, home=tmp_path / "home"),
            cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "done"


def test_a_configuration_of_local_data_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(STORIES))
    with pytest.raises(ValueError, match="data.config='small' is only for Hub datasets"):
        open_source(tmp_path / "a.jsonl", config="small")
