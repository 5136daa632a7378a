"""A resumed run equals the original: every setting is classified, and differences are refused with a list."""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest
from tiny_training import MODEL

from arche_mdlm.configuration.presets import NULL, load_preset, preset_from_dict
from arche_mdlm.configuration.settings import DataSettings, ModelSettings, TrainingSettings
from arche_mdlm.training import run as run_module
from arche_mdlm.training import train
from arche_mdlm.training.data import preparing as data_module
from arche_mdlm.training.loop.resuming import data_changes, refuse_changes, setting_changes

# Every field of the settings, with another value, and whether a run may go on with it. A new field has to be added.
COMPARED = {
    "model.architecture": "llama",
    "model.config": {},
    "model.initialisation": "pytorch",
    "data.config": "large",
    "data.weights": (0.5, 0.5),
    "data.stopping": "all_exhausted",
    "data.format": "text",
    "data.text_column": "story",
    "data.template": "{title}: {text}",
    "data.prompt_column": "question",
    "data.completion_column": "reply",
    "data.messages_column": "talk",
    "data.chat_template": "chat.jinja",
    "data.long_answers": "drop",
    "data.tokenizer": "gpt2",
    "data.vocab_size": 300,
    "data.layout": "packed",
    "data.context_length": 16,
    "data.max_tokens": 1000,
    "data.min_characters": 5,
    "data.long_documents": "chunk",
    "data.validation_fraction": 0.3,
    "training.objective": "low_variance",
    "training.time_sampling": "uniform",
    "training.max_steps": 9,
    "training.epochs": 2.0,
    "training.stop_at_nats": 3.0,
    "training.stop_past_best": 2.0,
    "training.batch_size": 4,
    "training.optimizer": "muon",
    "training.learning_rate": 1e-4,
    "training.muon_learning_rate": 0.01,
    "training.schedule": "warmup_stable_decay",
    "training.decay_share": 0.3,
    "training.min_lr_ratio": 0.1,
    "training.warmup_steps": 3,
    "training.weight_decay": 0.2,
    "training.decay_all": True,
    "training.betas": (0.8, 0.9),
    "training.clip_norm": 2.0,
    "training.short_canvas_share": 0.1,
    "training.attention_annealing_steps": 2,
    "training.time_window": (0.3, 0.8),
    "training.given_share": 0.5,
    "training.curriculum_steps": 2,
    "training.curriculum_tau": (0.002, 0.002),
    "training.curriculum_alpha": (0.1, 0.9),
    "training.distillation_steps": 400,
    "training.distillation_distance": 0.01,
    "training.distillation_alpha": (0.1, 0.9),
    "training.distillation_divergence": "forward",
    "training.ema_decay": 0.5,
    "training.mixed_precision": "bf16",
    "training.tf32": False,
    "training.length_multiple": 4,
    "training.length_pool": 2,
    "training.eval_samples": 3,
    "training.eval_rows": 5,
    "training.seed": 1,
}
FREE = {
    "data.source": "elsewhere.jsonl",
    "data.streaming": True,
    "data.num_workers": 2,
    "data.description": "fables",
    "data.license": "cc0-1.0",
    "data.language": "en",
    "training.accumulation": 2,
    "training.compile": True,
    "training.compile_mode": "max-autotune",
    "training.eval_every": 3,
    "training.eval_train_rows": 3,
    "training.save_every": 3,
    "training.keep_checkpoints": 7,
    "training.log_every": 2,
    "training.branches": (3,),
}
SECTIONS = {"model": ModelSettings, "data": DataSettings, "training": TrainingSettings}
FIXED = ("model.", "data.tokenizer", "data.vocab_size", "training.optimizer", "training.ema_decay")


def stored_state(preset, step=3, **record) -> dict:
    """`trainer_state.json` as it comes back from the disk."""
    return json.loads(json.dumps({"preset": preset.to_dict(), "step": step, "run": record}))


def changed(preset, key, value):
    section, name = key.split(".")
    return replace(preset, **{section: replace(getattr(preset, section), **{name: value})})


def test_every_setting_is_classified():
    known = {f"{section}.{f.name}" for section, cls in SECTIONS.items() for f in fields(cls)}
    assert known == COMPARED.keys() | FREE.keys(), "a new setting: does it change the steps of a run?"
    assert not COMPARED.keys() & FREE.keys()


@pytest.mark.parametrize("key", [*COMPARED, *FREE])
def test_a_changed_setting_is_found_or_free(key):
    preset = load_preset("quickstart-mdlm")
    other = changed(preset, key, (COMPARED | FREE)[key])
    assert other != preset, "the table must name another value than the preset's"
    changes = setting_changes(stored_state(preset), other, {})
    if key in FREE:
        assert changes == {}
        return
    assert all(name == key or name.startswith(f"{key}.") for name in changes)
    assert changes
    with pytest.raises(ValueError, match=f"{key}.*: .* -> "):
        refuse_changes(changes, "--resume", allowed=False)
    if key.startswith(FIXED):
        with pytest.raises(ValueError, match="the checkpoint decides these"):
            refuse_changes(changes, "--resume", allowed=True)
    else:
        assert f"{key}: " in refuse_changes(changes, "--resume", allowed=True)


@pytest.mark.parametrize("name", ["quickstart-mdlm", "mini-ar", "arche-paper-mdlm"])
def test_the_same_settings_are_no_change(name):
    preset = load_preset(name)
    record = {"init_from": None, "validation_data": "/some/where/held_out.jsonl", "sources": {"train": "1f"}}
    asked = {"init_from": None, "validation_data": "/else/where/held_out.jsonl", "sources": {"train": "1f"}}
    assert setting_changes(stored_state(preset, **record), preset, asked) == {}
    assert refuse_changes({}, "--resume", False) is None


@pytest.mark.parametrize("key", ["hidden_size", "attn_implementation", "attention_dropout", "new"])
def test_the_models_config_key_by_key(key):
    preset = load_preset("quickstart-mdlm")
    other = replace(preset, model=replace(preset.model, config=preset.model.config | {key: 7}))
    expected = {} if key == "attn_implementation" else {f"model.config.{key}": (preset.model.config.get(key), 7)}
    assert setting_changes(stored_state(preset), other, {}) == expected


def test_sources_and_prepared_data_are_compared():
    preset = load_preset("quickstart-mdlm")
    state = stored_state(preset, init_from="a/b", validation_data="v.jsonl", sources={"train": "aa", "validation": None},
                         data={"train": {"sha256": "12", "rows": 5, "tokens": 9}})  # fmt: skip
    asked = {"init_from": None, "validation_data": None, "sources": {"train": "bb", "validation": None}}
    assert setting_changes(state, preset, asked) == {"validation_data": ("v.jsonl", None), "train data": ("aa", "bb")}
    assert setting_changes(state, preset, asked | {"init_from": "c/d"})["init_from"] == ("a/b", "c/d")
    assert data_changes(state, {"train": {"sha256": "12", "rows": 5, "tokens": 9}}) == {}
    assert data_changes(state, {"train": {"sha256": "34", "rows": 5, "tokens": 9}}) == {
        "train data, sha256": ("12", "34")
    }


def test_a_run_at_its_peak_rate_may_become_longer():
    preset = load_preset("quickstart-mdlm", {"training.schedule": "warmup_stable_decay", "training.max_steps": 100})
    longer = changed(preset, "training.max_steps", 200)
    assert setting_changes(stored_state(preset, step=80), longer, {}) == {}
    assert list(setting_changes(stored_state(preset, step=81), longer, {})) == ["training.max_steps"]
    shorter = changed(preset, "training.max_steps", 90)
    assert list(setting_changes(stored_state(preset, step=80), shorter, {})) == ["training.max_steps"]
    assert setting_changes(stored_state(preset, step=81), shorter, {}, branch=True) == {}


def test_the_steps_of_equal_epochs_are_no_change():
    """They are known when the data is read, and the data is compared by its rows."""
    preset = load_preset("quickstart-mdlm", {"training.epochs": 2})
    counted = changed(preset, "training.max_steps", 123)
    assert setting_changes(stored_state(counted), preset, {}) == {}
    more = setting_changes(stored_state(counted), changed(preset, "training.epochs", 3.0), {})
    assert set(more) == {"training.epochs", "training.max_steps"}
    steps = preset_from_dict(counted.to_dict(), {"training.max_steps": 50})
    assert (steps.training.epochs, steps.training.max_steps) == (None, 50)


# --- the command ------------------------------------------------------------------------------------------------------

SETTINGS = {
    **MODEL,
    "training.max_steps": 4,
    "training.batch_size": 8,
    "training.warmup_steps": 2,
    "training.eval_every": 4,
    "training.save_every": 2,
    "training.log_every": 1,
}


def settings_line(**changes) -> list[str]:
    items = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
    return [word for key, value in items.items() for word in ("--set", f"{key}={json.dumps(value)}")]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """(folder of a run that was stopped after two of four steps, its data, its command line)."""
    folder = tmp_path_factory.mktemp("resuming")
    texts = [f"{n} {v} {w}." for n in ("Tim", "Sue", "Ann", "Bob", "A dog") for v in ("ran", "sat", "saw", "hid")
             for w in ("home", "to me", "a cat", "red")]  # fmt: skip
    corpus = folder / "stories.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    line = ["--preset", "quickstart-mdlm", "--data", str(corpus), *settings_line()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHE_MDLM_CACHE", str(folder / "cache"))
        assert train.main([*line, "--output_dir", str(folder / "run"), "--stop_after", "2"]) == 0
        yield folder / "run", corpus, line


@pytest.fixture
def run(stopped, tmp_path):
    """A copy of the stopped run."""
    return Path(shutil.copytree(stopped[0], tmp_path / "run"))


def steps(folder: Path) -> int:
    return max(int(path.name[-6:]) for path in folder.glob("checkpoint-*"))


def weights(folder: Path) -> bytes:
    return (folder / "checkpoint-000004" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(stopped):
    folder = stopped[0].parent / "whole"
    assert train.main([*stopped[2], "--output_dir", str(folder)]) == 0
    return weights(folder)


def test_resume_alone_takes_the_stored_settings(run, whole, capsys):
    assert train.main(["--resume", "--output_dir", str(run)]) == 0
    assert weights(run) == whole
    assert "stored -> asked" not in capsys.readouterr().err


def test_the_same_command_line_goes_on(stopped, run, whole, monkeypatch):
    monkeypatch.setattr(data_module, "_write_rows", lambda *_: pytest.fail("the data was prepared again"))
    monkeypatch.setattr(
        "arche_mdlm.training.data.corpus.train_bpe", lambda *_, **__: pytest.fail("a tokenizer was trained")
    )
    assert train.main([*stopped[2], "--resume", "--output_dir", str(run)]) == 0
    assert weights(run) == whole


def test_data_in_another_place_is_the_same_data(stopped, run, whole, tmp_path):
    moved = shutil.copy(stopped[1], tmp_path / "moved.jsonl")
    assert train.main([*stopped[2], "--resume", "--output_dir", str(run), "--data", str(moved)]) == 0
    assert weights(run) == whole


@pytest.mark.parametrize(
    ("more", "lines"),
    [
        (["--seed", "3"], ["training.seed: 0 -> 3"]),
        (["--objective", "low_variance", "--set", "training.batch_size=4"],
         ["training.objective: nelbo -> low_variance", "training.batch_size: 8 -> 4"]),
        (["--learning_rate", "0.5"], ["training.learning_rate: 0.003 -> 0.5"]),
        (["--set", "data.validation_fraction=0.3"], ["data.validation_fraction: 0.2 -> 0.3"]),
        (["--set", "training.eval_rows=3"], ["training.eval_rows: none -> 3"]),
        (["--layout", "packed"], ["data.layout: rows -> packed"]),
        (["--tokenizer", "gpt2"], ["data.tokenizer: bpe -> gpt2"]),
        (["--init_from", "checkpoints/mdlm-tinystories-mini"], ["init_from: none -> checkpoints/mdlm-tinystories-mini"]),
        (["--set", "model.config.num_hidden_layers=3"], ["model.config.num_hidden_layers: 2 -> 3"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("preset", [True, False])
def test_what_differs_is_refused_before_the_data_is_read(run, stopped, capsys, monkeypatch, preset, more, lines):
    monkeypatch.setattr(run_module, "load_corpus", lambda *_, **__: pytest.fail("data was prepared"))
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    line = stopped[2] if preset else []
    assert train.main([*line, "--resume", "--output_dir", str(run), *more]) == 2
    message = capsys.readouterr().err
    for expected in lines:
        assert f"  {expected}\n" in message
    assert "--allow_changes" in message
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_an_option_left_out_is_refused_where_the_preset_is_named(run, stopped, capsys):
    line = ["--preset", "quickstart-mdlm", "--data", str(stopped[1]), "--resume", "--output_dir", str(run)]
    assert train.main(line) == 2
    message = capsys.readouterr().err
    for expected in (
        "training.batch_size: 8 -> 16",
        "training.max_steps: 4 -> 800",
        "model.config.hidden_size: 32 -> 96",
    ):
        assert expected in message


@pytest.mark.parametrize("named", [True, False])
def test_data_that_has_grown_is_refused_with_both_hashes(run, stopped, tmp_path, capsys, monkeypatch, named):
    """The vocabulary was trained again, and two thirds of the tokens changed their meaning."""
    grown = tmp_path / "grown.jsonl"
    grown.write_text(stopped[1].read_text() + json.dumps({"text": "Zoe zapped zebras."}) + "\n")
    line = [*(stopped[2] if named else []), "--data", str(grown), "--resume", "--output_dir", str(run)]
    assert train.main(line) == 2
    stored = json.loads((run / "checkpoint-000002" / "trainer_state.json").read_text())["run"]["sources"]["train"]
    assert f"train data: {stored} -> " in capsys.readouterr().err

    # With the flag it goes on, and the tokenizer is the checkpoint's.
    vocabulary = (run / "checkpoint-000002" / "tokenizer.json").read_text()
    assert train.main([*line, "--allow_changes"]) == 0
    note = capsys.readouterr().err
    assert "train data: " in note
    assert "train data, sha256: " in note
    assert (run / "checkpoint-000004" / "tokenizer.json").read_text() == vocabulary


def test_prepared_data_that_differs_is_refused(run, stopped, capsys):
    """For example a changed Hub dataset, which only the rows reveal."""
    path = run / "checkpoint-000002" / "trainer_state.json"
    state = json.loads(path.read_text())
    state["run"]["data"]["validation"]["sha256"] = "0" * 64
    path.write_text(json.dumps(state))
    assert train.main([*stopped[2], "--resume", "--output_dir", str(run)]) == 2
    assert f"validation data, sha256: {'0' * 64} -> " in capsys.readouterr().err
    assert steps(run) == 2


def test_allowed_changes_are_said(run, stopped, capsys):
    assert train.main(["--resume", "--output_dir", str(run), "--seed", "5", "--allow_changes"]) == 0
    assert "training.seed: 0 -> 5" in capsys.readouterr().err
    state = json.loads((run / "checkpoint-000004" / "trainer_state.json").read_text())
    assert state["preset"]["training"]["seed"] == 5


def test_what_the_checkpoint_decides_cannot_be_allowed(run, capsys):
    line = ["--resume", "--output_dir", str(run), "--set", "model.config.hidden_size=64", "--allow_changes"]
    assert train.main(line) == 2
    assert "the checkpoint decides these\n  model.config.hidden_size: 32 -> 64" in capsys.readouterr().err


def test_free_settings_do_not_matter(run, whole, stopped):
    free = [
        "--save_every",
        "1",
        "--set",
        "training.keep_checkpoints=9",
        "--set",
        "training.log_every=2",
        "--num_workers",
        "2",
    ]
    assert train.main(["--resume", "--output_dir", str(run), *free]) == 0
    assert weights(run) == whole
    assert (run / "checkpoint-000003").is_dir()


def test_a_checkpoint_of_an_older_version_goes_on(run, whole, stopped):
    """One that has its preset only, and fewer settings than today."""
    path = run / "checkpoint-000002" / "trainer_state.json"
    state = json.loads(path.read_text())
    del state["run"]
    for name in ("description", "license", "language", "long_documents"):
        del state["preset"]["data"][name]
    path.write_text(json.dumps(state))
    assert train.main([*stopped[2], "--resume", "--output_dir", str(run)]) == 0
    assert weights(run) == whole


def test_resume_without_a_checkpoint_says_so(stopped, tmp_path, capsys):
    assert train.main([*stopped[2], "--resume", "--output_dir", str(tmp_path / "new"), "--stop_after", "1"]) == 0
    assert "no checkpoint in" in capsys.readouterr().err


def test_null_is_the_presets_way_back():
    assert (
        preset_from_dict(
            load_preset("quickstart").to_dict(), {"data.validation_fraction": NULL}
        ).data.validation_fraction
        is None
    )
