"""Cards describe the run, using only known facts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from arche_mdlm.checkpoints import SHIPPED
from arche_mdlm.configuration.presets import available_presets, load_preset, preset_from_dict
from arche_mdlm.training.models.model_card import DataFacts, _measured, write_model_card

CHECKPOINTS = Path(__file__).parents[3] / "checkpoints"
HISTORY = [
    {"step": 1, "tokens": 300, "supervised": 200, "seconds": 2.0, "tokens_per_second": 150.0},
    {"step": 2, "validation_nats": 1.5, "validation_standard_error": 0.25, "validation_bits_per_byte": 0.5,
     "validation_nats_per_story": 90.0},
]  # fmt: skip


def card_of(tmp_path, preset, source="fables.jsonl", **run) -> tuple[dict, str]:
    """(front matter, text) of a card."""
    part = {"source": source, "stories": 70, "tokens": 150, "sha256": "ab" * 32, "left_out": 0, "chunked": 0}
    described = {
        "data": {"train": part, "validation": part | {"stories": 9}},
        "parameters": 1234,
        "device": "cpu, 1 threads",
        "versions": {"torch": "2", "transformers": "5"},
        "command": "training/train.py",
        "init_from": None,
    }
    write_model_card(tmp_path, preset, described | run, HISTORY, 2, "fables")
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


@pytest.mark.parametrize("name", available_presets())
def test_nothing_is_claimed_that_is_not_known(tmp_path, name):
    """With own data the card lacks licence, language and the preset's corpus, for any preset."""
    front, body = card_of(tmp_path, load_preset(name, {"data.source": "fables.jsonl"}))
    assert not {"license", "language", "datasets", "base_model"} & front.keys()
    for word in ("child", "English", "TinyStories", "ships", "apache", "cdla"):
        assert word not in body, word
    assert "`fables.jsonl`, licence unknown: 70 texts, 150 tokens" in body
    assert "1.5000 nats a token" in body
    assert "2.0 passes over 150 tokens" in body
    assert ("standard error" in body) == (load_preset(name).model.architecture == "mdlm")


def test_what_is_known_is_said(tmp_path):
    own = {"data.description": "fables of Aesop", "data.license": "cc0-1.0", "data.language": "el"}
    preset = load_preset("mini-mdlm", {"data.source": "fables.jsonl"} | own)
    front, body = card_of(tmp_path, preset, init_from="arche/mdlm-tinystories")
    assert (front["language"], front["base_model"]) == ("el", "arche/mdlm-tinystories")
    assert "Fine-tuned from `arche/mdlm-tinystories`" in body
    assert "(fables of Aesop), licence cc0-1.0" in body
    assert "Trained on fables of Aesop, after whatever `arche/mdlm-tinystories` was trained on" in body

    front, body = card_of(tmp_path, load_preset("mini-ar"), source="roneneldan/TinyStories")
    assert (front["datasets"], front["language"]) == (["roneneldan/TinyStories"], "en")
    assert "licence cdla-sharing-1.0" in body


def test_the_figure_is_of_the_rows_that_were_evaluated(tmp_path):
    preset = load_preset("quickstart-mdlm")
    assert "Validation split (9 texts" in card_of(tmp_path, preset)[1]
    few = replace(preset, training=replace(preset.training, eval_rows=4))
    assert "Validation split (the first 4 of 9 texts" in card_of(tmp_path, few)[1]


def test_the_table_has_the_training_rows_where_they_were_scored(tmp_path, monkeypatch):
    preset = load_preset("quickstart-mdlm")
    assert "training rows" not in card_of(tmp_path, preset)[1]
    scored = {"train_nats": 1.25, "train_standard_error": 0.125, "train_bits_per_byte": 0.4}
    unscored = HISTORY[1] | {"step": 0}  # of an older version, before the run went on
    monkeypatch.setitem(globals(), "HISTORY", [unscored, HISTORY[0], HISTORY[1] | scored])
    body = card_of(tmp_path, preset)[1]
    assert "| bits a byte | training rows, nats a token | standard error |\n" in body
    assert "| 0 | 1.5000 | 0.2500 | 0.5000 | – | – |\n" in body
    assert "| 2 | 1.5000 | 0.2500 | 0.5000 | 1.2500 | 0.1250 |\n" in body


def test_long_texts_are_counted(tmp_path):
    part = {"source": "a", "stories": 7, "tokens": 15, "sha256": "ab", "left_out": 3}
    body = card_of(tmp_path, load_preset("quickstart-mdlm"), data={"train": part, "validation": part})[1]
    assert "3 texts longer than the context were left out" in body
    part = part | {"left_out": 0, "chunked": 2}
    body = card_of(tmp_path, load_preset("quickstart-mdlm"), data={"train": part, "validation": part})[1]
    assert "2 texts longer than the context were cut into several rows" in body


@pytest.mark.parametrize("arm", ["mdlm", "ar"])
def test_the_hub_reads_the_likelihood_by_its_name(tmp_path, arm):
    """As its own client parses a card; a figure that was not measured is left out."""
    card_of(tmp_path, load_preset(f"mini-{arm}", {"data.source": "fables.jsonl"}))
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.model_name == "fables"
    found = {result.metric_type: result for result in data.eval_results}
    assert {name: result.metric_value for name, result in found.items()} == {
        "nats_per_token": 1.5,
        "bits_per_byte": 0.5,
    }
    for result in found.values():
        assert ("upper bound" in result.metric_name) == (arm == "mdlm")
        assert (result.dataset_type, result.dataset_split) == ("fables.jsonl", "validation")
    no_bytes = [entry | {"validation_bits_per_byte": None} for entry in HISTORY if "validation_nats" in entry]
    assert [r.metric_type for r in _measured(no_bytes[0], {"source": "a"}, DataFacts(), "NLL")] == ["nats_per_token"]


@pytest.mark.parametrize("name", SHIPPED.values())
def test_the_shipped_cards_are_what_the_writer_writes(tmp_path, name):
    """The pair's runs did not record the description of the data yet."""
    folder = CHECKPOINTS / name
    log = json.loads((folder / "training_log.json").read_text(encoding="utf-8"))
    facts = {
        "data.description": "TinyStories, short synthetic children's stories (Eldan and Li 2023), de-duplicated",
        "data.license": "cdla-sharing-1.0",
        "data.language": "en",
    }
    preset = preset_from_dict(log["run"]["preset"], facts)
    write_model_card(
        tmp_path,
        preset,
        log["run"],
        log["history"],
        log["exported"]["step"],
        folder.name,
        log["exported"],
        "apache-2.0",
    )
    expected = (tmp_path / "README.md").read_text(encoding="utf-8") + "\n![Loss curves](training.png)\n"
    assert (folder / "README.md").read_text(encoding="utf-8") == expected
