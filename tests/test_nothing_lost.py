"""Commands remove and overwrite only their own files: tests each command that writes, with files of the user in its way."""

import argparse
import json
import os
from pathlib import Path

import pytest
import torch

from arche_mdlm.commands.main import main
from arche_mdlm.configuration.settings import ModelSettings
from arche_mdlm.studies.engine import command as job_command
from arche_mdlm.studies.engine import pair as pair_of_a_study
from arche_mdlm.studies.engine.jobs import Job, Plan
from arche_mdlm.training.command_line import exit_status
from arche_mdlm.training.files.own_files import MANIFEST, OutputFolder
from arche_mdlm.training.models.build import build_model
from arche_mdlm.training.models.loading import save_arm, set_generation_defaults
from tools import animation, export

MINE = b"years of work \x00\xff\n"
TEXTS = [
    f"{a} {b} a {c}. The end." for a in ("Tom", "Lily", "Sam") for b in ("saw", "had") for c in ("dog", "cat", "ball")
]
pytestmark = pytest.mark.filterwarnings("ignore:data has")


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer):
    """A trained-looking pair, held-out stories, and a run of two steps to export."""
    root = tmp_path_factory.mktemp("place")
    shape = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2, "max_position_embeddings": 40, "tie_word_embeddings": True}  # fmt: skip
    for name, architecture in (("mdlm", "mdlm"), ("ar", "llama")):
        torch.manual_seed(0)
        model = build_model(ModelSettings(architecture, shape), tokenizer)
        set_generation_defaults(model, tokenizer, 40)
        save_arm(model, tokenizer, root / name)
    (root / "held_out.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHE_MDLM_CACHE", str(root / "cache"))
        assert main(train(root, root / "run")) == 0
        yield root


def train(place, output, *extra) -> list[str]:
    settings = {"data.vocab_size": 280, "data.context_length": 40, "model.config.vocab_size": 280,
                "model.config.hidden_size": 16, "model.config.intermediate_size": 32,
                "model.config.num_hidden_layers": 1, "model.config.max_position_embeddings": 40, "training.max_steps": 2,
                "training.batch_size": 4, "training.warmup_steps": 1, "training.eval_every": 1, "training.save_every": 1,
                "training.keep_checkpoints": 1}  # fmt: skip
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return ["train", "--preset", "quickstart-mdlm", "--data", str(place / "held_out.jsonl"), "--validation_fraction", "0.3",
            "--output_dir", str(output), *changes, *extra]  # fmt: skip


def pair(place) -> list[str]:
    return ["--mdlm", str(place / "mdlm"), "--ar", str(place / "ar")]


def compare(place, output):
    return main(["compare", *pair(place), "--output", str(output), "--num_samples", "2", "--num_diffusion_steps", "1",
                 "--data", str(place / "held_out.jsonl"), "--likelihood_samples", "2"])  # fmt: skip


def speed(place, output):
    return main(["study", "speed-quality", *pair(place), "--output", str(output), "--samplers", "ancestral", "--steps", "1",
                 "--batch_sizes", "1", "--num_samples", "2", "--num_timed", "1", "--repeats", "1", "--judge", "none",
                 "--threads", "1"])  # fmt: skip


def families(place, output):
    return main(["compare", "--families", "--ar", str(place / "ar"), "--models", f"a={place / 'mdlm'}", "--output", str(output),
                 "--steps", "1", "--batch_sizes", "1", "--num_samples", "2", "--num_timed", "1", "--repeats", "1", "--judge", "none",
                 "--data", str(place / "held_out.jsonl"), "--likelihood_samples", "2", "--exact_stories", "2",
                 "--threads", "1"])  # fmt: skip


def generate(place, output):
    return main(["generate", str(place / "mdlm"), "--num_samples", "3", "--num_diffusion_steps", "1", "--batch_size", "2",
                 "--output", str(output / "out.jsonl")])  # fmt: skip


def jobs(place, output):
    """The shared part of all studies, with one small job."""
    job = Job(job_command.SUMMARY, "k", "arche_mdlm.studies.controlled.jobs:paired", {"column": "x", "seed": 0})
    files = ("report.md", "report.json", "picture.png")

    def write_report(report, about, failed, folder):
        writer = OutputFolder(folder, files)
        writer.write("picture.png", lambda path: path.write_bytes(b"png"))
        writer.write_json("report.json", report)
        return writer.write_text("report.md", "![](picture.png) `report.json`\n")

    args = argparse.Namespace(output=output, workers=0, threads=1, publish=output / "page", dry_run=False)
    plan = Plan((job,))
    return exit_status(lambda: job_command.run_study(args, lambda: plan, {}, write_report, files, lambda line: None))


def gif(place, output):
    words = ["--output", str(output / "writing.gif"), "--num_diffusion_steps", "2", "--prompt", "Tom"]
    return exit_status(lambda: animation.main([*pair(place), *words]))


def training(place, output):
    return main(train(place, output))


def exporting(place, output):
    words = [str(place / "run"), str(output), "--validation_data", str(place / "held_out.jsonl")]
    return exit_status(lambda: export.main(words))


def converting(place, output):
    return main(["convert", str(place / "ar"), str(output)])


# Command, the files that it writes itself, whether it accepts a folder that has others in it.
WRITERS = {
    "compare": (compare, ["report.md", "report.json", "diversity.png", "lengths.png", "study.json"], True),
    "speed-quality": (speed, ["report.md", "report.json", "frontier.png", "study.json"], True),
    "families": (families, ["report.md", "report.json", "frontier.png", "study.json"], True),
    "jobs": (
        jobs,
        ["report.md", "report.json", "picture.png", "page.md", "page.json", "page/picture.png", "study.json"],
        True,
    ),
    "generate": (generate, ["out.jsonl", "out.jsonl.settings.json", "out.jsonl.partial"], True),
    "animation": (gif, ["writing.gif"], True),
    "export": (exporting, ["README.md", "config.json"], False),
    "convert": (converting, ["README.md", "config.json"], False),
}
OTHERS = ["notes.txt", "cells/mine.json", "parts/mine.jsonl", "jobs/mine/result.json", "work/mine", ".lock", "texts.jsonl",
          "out.jsonl.partial.bak", ".out.jsonl.part", "training_notes.png", "page/mine.png", "final/mine.txt"]  # fmt: skip


def put(folder: Path, names) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(MINE)


def assert_kept(folder: Path, names) -> None:
    for name in names:
        assert (folder / name).read_bytes() == MINE, name


@pytest.mark.parametrize("name", WRITERS)
def test_what_the_user_has_in_the_folder_stays(place, tmp_path, name, capsys):
    command, files, accepts = WRITERS[name]
    put(tmp_path / "out", OTHERS)
    status = command(place, tmp_path / "out")
    assert status == (0 if accepts else 2), capsys.readouterr().err
    assert_kept(tmp_path / "out", OTHERS)
    if accepts:  # again: its own files are replaced, the others still stay
        assert command(place, tmp_path / "out") == 0, capsys.readouterr().err
        assert_kept(tmp_path / "out", OTHERS)
    else:
        assert "is there already and not empty" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "file"), [(name, file) for name, (_, files, _) in WRITERS.items() for file in files])
def test_a_file_of_the_user_with_the_name_of_ours_is_refused_before_any_work(
    place, tmp_path, name, file, monkeypatch, capsys
):
    put(tmp_path / "out", [file])
    for work in ("arche_mdlm.training.models.loading.load_arm", "arche_mdlm.writing.stories.write_batch"):
        monkeypatch.setattr(work, None)
    monkeypatch.setattr(pair_of_a_study, "load_arm", None)
    assert WRITERS[name][0](place, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "there already" in said or "is not the plan of a study" in said
    assert_kept(tmp_path / "out", [file])
    left = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert left == {file}


@pytest.mark.parametrize("name", [name for name, (_, _, accepts) in WRITERS.items() if accepts and name != "generate"])
def test_a_report_that_the_user_has_changed_is_theirs(place, tmp_path, name, capsys):
    command, files, _ = WRITERS[name]
    assert command(place, tmp_path / "out") == 0, capsys.readouterr().err
    put(tmp_path / "out", files[:1])
    assert command(place, tmp_path / "out") == 2
    assert "has changed since" in capsys.readouterr().err
    assert_kept(tmp_path / "out", files[:1])


def test_a_training_keeps_what_is_not_its_own(place, tmp_path, capsys):
    """Beside the run, in its checkpoints, and in `final/`; also when the run is started over, and when it goes on."""
    others = ["notes.txt", "final/mine.txt", "checkpoint-000001/mine.txt"]
    put(tmp_path / "out", others)
    assert training(place, tmp_path / "out") == 0, capsys.readouterr().err
    assert_kept(tmp_path / "out", others)
    put(tmp_path / "out", ["checkpoint-000002/evaluation.json"])
    for extra in ("--resume", "--overwrite"):
        assert main(train(place, tmp_path / "out", extra)) == 0, capsys.readouterr().err
        assert_kept(tmp_path / "out", others)
        if extra == "--resume":
            assert_kept(tmp_path / "out", ["checkpoint-000002/evaluation.json"])


def test_overwrite_of_generate_deletes_its_own_file_only(place, tmp_path, capsys):
    put(tmp_path, ["out.jsonl"])
    words = ["generate", str(place / "mdlm"), "--num_diffusion_steps", "1", "--output", str(tmp_path / "out.jsonl")]
    assert main([*words, "--overwrite"]) == 2
    assert "not written by this command" in capsys.readouterr().err
    assert_kept(tmp_path, ["out.jsonl"])
    (tmp_path / "out.jsonl").unlink()
    assert main(words) == 0
    first = (tmp_path / "out.jsonl").read_text()
    put(tmp_path, ["out.jsonl.partial.old"])
    assert main([*words, "--seed", "1", "--overwrite"]) == 0
    assert (tmp_path / "out.jsonl").read_text() != first
    assert_kept(tmp_path, ["out.jsonl.partial.old"])


def test_an_output_folder_replaces_its_own_files_one_by_one(tmp_path):
    folder = OutputFolder(tmp_path / "deep" / "out", ["a.txt", "sub/b.txt"])
    folder.check()
    assert not folder.path.parent.exists(), "a check leaves nothing"
    for text in ("one", "two", "three"):
        folder.write_text("a.txt", text)
        folder.write_text("sub/b.txt", text)
        assert (folder.path / "sub" / "b.txt").read_text() == text
        folder.check()

    def fails(path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        folder.write("a.txt", fails)
    assert sorted(path.name for path in folder.path.iterdir()) == [MANIFEST, "a.txt", "sub"]
    assert (folder.path / "a.txt").read_text() == "three"
    with pytest.raises(ValueError, match="is not among the files of this folder"):
        folder.write_text("c.txt", "")
    os.replace(folder.path / "a.txt", folder.path / "moved")
    (folder.path / "a.txt").symlink_to("moved")
    with pytest.raises(ValueError, match="is there already"):
        folder.write_text("a.txt", "through a link")
    assert (folder.path / "moved").read_text() == "three"
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot write to .* is a file; give a folder"):
        OutputFolder(tmp_path / "file" / "out", []).check()
