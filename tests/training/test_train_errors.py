"""Every error ends a training with one line and exit code 2, and keeps all files of the user."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from arche_mdlm.checkpoints import SHIPPED
from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.training import run as run_module
from arche_mdlm.training import train
from arche_mdlm.training.data import preparing as data_module
from arche_mdlm.training.effects import without_effect

REPOSITORY = Path(__file__).parents[2]
CHECKPOINTS = REPOSITORY / "checkpoints"
QUICK = ["--preset", "quickstart-mdlm", "--max_steps", "2", "--batch_size", "4", "--set", "training.eval_rows=4",
         "--set", "model.config.hidden_size=16", "--set", "model.config.num_hidden_layers=1", "--set",
         "model.config.intermediate_size=16"]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHE_MDLM_CACHE", str(tmp_path_factory.mktemp("errors") / "cache"))
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert train.main([*QUICK, "--output_dir", str(folder)]) == 0
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run, with files of the user's in it."""
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    for name in ("notes.txt", "checkpoint-000002/notes.json", "final/notes.md", "mine/thesis.tex", "checkpoint-mine"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"my {name}")
    return folder


def own_files(folder: Path) -> dict[str, str]:
    names = ("notes.txt", "checkpoint-000002/notes.json", "final/notes.md", "mine/thesis.tex", "checkpoint-mine")
    return {name: (folder / name).read_text() for name in names if (folder / name).is_file()}


def error_of(capsys, line: list[str]) -> str:
    """The error line; everything else on stderr is notes and bars."""
    assert train.main(line) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


# --- the user's files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [["--overwrite", "--max_steps", "3"], ["--resume"]])
def test_files_that_no_run_wrote_survive(run, more):
    before = own_files(run)
    assert len(before) == 5
    assert train.main([*QUICK, *more, "--output_dir", str(run)]) == 0
    assert own_files(run) == before
    assert (run / "final" / "model.safetensors").is_file()


def test_overwrite_deletes_nothing_before_all_is_checked(run, capsys):
    weights = (run / "checkpoint-000002" / "model.safetensors").read_bytes()
    for wrong in (
        ["--data", "/nowhere.jsonl"],
        ["--batch_size", "5000"],
        ["--layout", "heaps"],
        ["--init_from", "/nowhere/x"],
    ):
        line = [*QUICK, "--overwrite", "--output_dir", str(run), *wrong]
        error_of(capsys, line)
        assert (run / "checkpoint-000002" / "model.safetensors").read_bytes() == weights
        assert len(own_files(run)) == 5


@pytest.mark.parametrize("name", ["run.json", "training_log.json", "final/config.json"])
@pytest.mark.parametrize("more", [[], ["--overwrite"], ["--resume"]])
def test_a_folder_of_somebody_elses_is_refused(tmp_path, capsys, name, more):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"mine": 1}')
    message = error_of(capsys, [*QUICK, *more, "--output_dir", str(tmp_path)])
    assert f"holds {name}, which no run has written" in message
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [path.name]
    assert path.read_text() == '{"mine": 1}'


def test_a_run_killed_before_its_first_checkpoint_starts_again(finished, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(finished / "run.json", folder)
    assert train.main([*QUICK, "--output_dir", str(folder), "--stop_after", "1"]) == 0


# --- the output folder ----------------------------------------------------------------------------------------------------


def test_an_output_folder_that_is_a_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run_module, "load_corpus", lambda *_, **__: pytest.fail("data was prepared"))
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file", tmp_path / "file" / "run"):
        for more in ([], ["--overwrite"], ["--resume"]):
            assert "is a file; give a folder" in error_of(capsys, [*QUICK, *more, "--output_dir", str(output)])
    assert (tmp_path / "file").read_text() == "mine"


def test_an_output_folder_without_permission(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run_module, "load_corpus", lambda *_, **__: pytest.fail("data was prepared"))
    real = tempfile.TemporaryFile

    def refuse(*arguments, dir=None, **more):
        if dir == tmp_path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(*arguments, dir=dir, **more)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    message = error_of(capsys, [*QUICK, "--output_dir", str(tmp_path / "run")])
    assert message == f"error: cannot write to --output_dir {tmp_path / 'run'}: {tmp_path}: Permission denied"


# --- while it prepares ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
def test_a_cache_that_cannot_be_written(tmp_path, capsys, monkeypatch, number):
    def full(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setenv("ARCHE_MDLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(data_module, "_write_rows", full)
    message = error_of(capsys, [*QUICK, "--output_dir", str(tmp_path / "run")])
    assert os.strerror(number) in message
    assert "ARCHE_MDLM_CACHE" in message
    assert not list((tmp_path / "cache" / "data").iterdir())
    assert not (tmp_path / "run").exists()


def test_ctrl_c_while_data_is_prepared(tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setenv("ARCHE_MDLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(data_module, "_write_rows", interrupted)
    assert train.main([*QUICK, "--output_dir", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err.endswith("interrupted\n")
    assert not list((tmp_path / "cache" / "data").iterdir())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "fails", ["write_json_atomically", "describe_run", "build_model", "load_corpus", "set_seed", "Trainer"]
)
def test_an_error_of_the_system_is_one_line_wherever_it_is(tmp_path, capsys, monkeypatch, fails):
    def error(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "/some/file")

    monkeypatch.setattr(run_module, fails, error)
    assert "Permission denied: '/some/file'" in error_of(capsys, [*QUICK, "--output_dir", str(tmp_path / "run")])


def test_a_full_disk_for_the_run_itself(tmp_path):
    """A limit on the size of a file stands in for a full disk, in a process of its own: SIGXFSZ, EFBIG."""
    code = (
        "import resource, sys; from arche_mdlm.training import run, train\n"
        "real = run.load_corpus\n"
        "def load(*a, **k):\n"
        "    result = real(*a, **k); resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); return result\n"
        "run.load_corpus = load; sys.exit(train.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *QUICK, "--output_dir", str(tmp_path / "run")]
    process = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert process.returncode == 2, process.stderr[-2000:]
    assert "Traceback" not in process.stderr
    assert "error: could not write" in process.stderr
    assert not list((tmp_path / "run").glob("*.part")) + list((tmp_path / "run").glob(".*.part"))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 2000


# --- what does not fit ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--set", "model.config.hidden_size=97"], ["hidden_size=97", "multiple of the number of attention heads"]),
        (["--set", "data.context_length=500"], ["more than model.config.max_position_embeddings=192"]),
        (["--set", "training.max_steps=[1"], ["the value is not valid YAML"]),
        (["--seed", "3", "--set", "training.seed=4"], ["training.seed is given twice: 3, and 4 by --set"]),
        (["--tokenizer", "bpe", "--init_from", str(CHECKPOINTS / "mdlm-tinystories-mini")], ["data.tokenizer cannot be set"]),
        (["--stop_after", "0"], ["--stop_after=0 must be at least 1"]),
        (["--push_to_hub", "a b/c"], ["a b/c"]),
        (["--set", "data.context_length=4"], ["--layout packed", "--long_documents chunk"]),
        (["--data", "training/*.none"], ["no file 'training/*.none'"]),
        (["--init_from", str(CHECKPOINTS / "ar-tinystories-mini")], ["arche-mdlm convert", "preset `-ar`"]),
        (["--preset", "quickstart-ar", "--init_from", str(CHECKPOINTS / "mdlm-tinystories-mini")],
         ["an MDLM cannot become an AR model"]),
        (["--preset", "mini-gpt2", "--set", "model.config.hidden_size=24", "--init_from",
          str(CHECKPOINTS / "ar-tinystories-mini")], ["trains gpt2"]),
        (["--init_from", str(CHECKPOINTS / "mdlm-tinystories-mini")], ["model.config.hidden_size=16: the model of"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(tmp_path, capsys, monkeypatch, more, words):
    if "context_length=4" not in str(more) and "--data" not in more:
        monkeypatch.setattr(run_module, "load_corpus", lambda *_, **__: pytest.fail("data was prepared"))
    message = error_of(capsys, [*QUICK, "--output_dir", str(tmp_path / "run"), *more])
    for word in words:
        assert word in message
    assert not (tmp_path / "run").exists()


def test_a_failing_push_does_not_lose_the_run(run, capsys, monkeypatch):
    import huggingface_hub

    class Api:
        def create_repo(self, *_, **__):
            raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    message = error_of(capsys, [*QUICK, "--resume", "--output_dir", str(run), "--push_to_hub", "user/name"])
    assert f"hf upload user/name {run / 'final'}" in message
    assert (run / "final" / "model.safetensors").is_file()


# --- fine-tuning: the settings of the checkpoint ------------------------------------------------------------------------------


def test_a_fine_tuned_run_records_the_model_that_it_trains(tmp_path):
    start = CHECKPOINTS / "mdlm-tinystories-mini"
    line = ["--preset", "quickstart-mdlm", "--init_from", str(start), "--max_steps", "2", "--batch_size", "2",
            "--set", "training.eval_rows=2", "--set", "model.config.attn_implementation=eager", "--output_dir",
            str(tmp_path / "run")]  # fmt: skip
    assert train.main([*line, "--stop_after", "1"]) == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["init_from"] == "mdlm-tinystories-mini"
    assert run["preset"]["model"]["config"]["hidden_size"] == 192  # 96 in the preset
    # The same command line goes on, and so does --resume alone, which still knows the base model.
    assert train.main([*line, "--resume", "--stop_after", "1"]) == 0
    assert train.main(["--resume", "--output_dir", str(tmp_path / "run")]) == 0
    card = (tmp_path / "run" / "final" / "README.md").read_text()
    assert "base_model: mdlm-tinystories-mini" in card


# --- tokenizers know the context --------------------------------------------------------------------------------------------


def test_truncation_stops_at_the_context(finished):
    folders = [
        *(path.parent for path in CHECKPOINTS.glob("*/config.json")),
        finished / "final",
        finished / "checkpoint-000002",
    ]
    assert len(folders) == len(SHIPPED) + 2
    for folder in folders:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        context = json.loads((folder / "config.json").read_text())["max_position_embeddings"]
        assert len(tokenizer("The dog ran home. " * 200, truncation=True)["input_ids"]) == context, folder


# --- settings that change nothing beside the others ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "changes", "why"),
    [
        ("mini-ar", {"training.time_sampling": "uniform"}, "an AR arm"),
        ("mini-ar", {"training.short_canvas_share": 0.1}, "an AR arm"),
        ("mini-ar", {"training.time_window": [0.3, 0.8]}, "an AR arm"),
        ("mini-ar", {"training.given_share": 0.1}, "an AR arm"),
        ("mini-ar", {"training.curriculum_steps": 5}, "an AR arm"),
        ("mini-ar", {"training.curriculum_tau": [0.01, 0.001]}, "an AR arm"),
        ("mini-mdlm", {"training.curriculum_tau": [0.01, 0.001]}, "training.curriculum_steps=null"),
        ("mini-mdlm", {"training.curriculum_alpha": [0.1, 0.9]}, "training.curriculum_steps=null"),
        ("mini-ar", {"training.distillation_distance": 0.1}, "an AR arm"),
        ("mini-mdlm", {"training.distillation_alpha": [0.1, 0.9]}, "training.distillation_steps=null"),
        ("mini-mdlm", {"training.distillation_divergence": "forward"}, "training.distillation_steps=null"),
        ("mini-ar", {"training.length_multiple": 8}, "an AR arm"),
        ("mini-gpt2", {"training.eval_samples": 8}, "an AR arm"),
        ("mini-mdlm", {"training.short_canvas_share": 0.1, "data.layout": "packed"}, "data.layout='packed'"),
        ("mini-mdlm", {"training.length_pool": 2, "data.layout": "windows"}, "data.layout='windows'"),
        ("mini-mdlm", {"training.muon_learning_rate": 0.1}, "training.optimizer='adamw'"),
        ("mini-mdlm", {"training.decay_share": 0.1}, "training.schedule='cosine'"),
        ("mini-mdlm", {"training.compile_mode": "max-autotune"}, "training.compile=false"),
        ("controlled-mdlm", {"data.vocab_size": 300}, "a tokenizer that is there already"),
    ],
)
def test_a_setting_without_effect_is_said(preset, changes, why):
    key = next(iter(changes))
    assert without_effect(load_preset(preset, changes), changes, False) == [f"note: {key} has no effect with {why}"]
    assert without_effect(load_preset(preset, changes), {}, False) == []


@pytest.mark.parametrize("preset", ["mini-mdlm", "mini-ar"])
def test_settings_with_an_effect_are_not_said(preset):
    keys = ["training.length_pool", "training.seed", "data.vocab_size", "training.batch_size"]
    if preset == "mini-mdlm":
        keys += [
            "training.time_sampling",
            "training.short_canvas_share",
            "training.length_multiple",
            "training.eval_samples",
        ]
    assert without_effect(load_preset(preset), keys, False) == []
