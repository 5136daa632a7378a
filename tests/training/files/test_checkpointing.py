"""Checkpoints are atomic: after exceptions, full disks and killed runs the last good one is intact."""

import errno
import json
import os
import resource

import pytest
import torch
from safetensors.torch import save_file

from arche_mdlm.training.files import checkpointing
from arche_mdlm.training.files.checkpointing import (
    STATE_FILE,
    CheckpointError,
    list_checkpoints,
    read_state,
    remove_checkpoint,
    rotate,
    write_folder_atomically,
    write_json_atomically,
)
from arche_mdlm.training.files.own_files import MANIFEST


def checkpoint(output_dir, step: int):
    folder = output_dir / f"checkpoint-{step:06d}"
    write_folder_atomically(folder, lambda aside: (aside / STATE_FILE).write_text(json.dumps({"step": step})))
    return folder


@pytest.fixture
def good(tmp_path):
    """A folder with one good file."""
    folder = tmp_path / "model"
    write_folder_atomically(folder, lambda aside: (aside / "weights").write_text("good"))
    return folder


def content(folder):
    """Text by name, without the list of written files."""
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != MANIFEST}


def assert_untouched(folder):
    assert [path.name for path in folder.parent.iterdir()] == ["model"], "nothing half written stays"
    assert content(folder) == {"weights": "good"}


def test_a_new_folder_replaces_the_old_one_as_a_whole(good):
    write_folder_atomically(good, lambda aside: (aside / "other").write_text("new"))
    assert [path.name for path in good.parent.iterdir()] == ["model"]
    assert content(good) == {"other": "new"}


def test_what_others_have_put_into_a_folder_is_in_the_new_one_too(good):
    (good / "mine").write_text("a note")
    (good / "sub" / "deep").mkdir(parents=True)
    (good / "sub" / "deep" / "weights").write_text("also mine")
    (good / "link").symlink_to("nowhere")
    (good / "empty").mkdir()
    (good / "weights").write_text("edited")
    for text in ("new", "newer"):
        write_folder_atomically(good, lambda aside, text=text: (aside / "weights").write_text(text))
        assert (good / "weights").read_text() == text
        assert (good / "mine").read_text() == "a note"
        assert (good / "sub" / "deep" / "weights").read_text() == "also mine"
        assert os.readlink(good / "link") == "nowhere"
        assert (good / "empty").is_dir()
        assert (good / "weights.kept").read_text() == "edited"
        assert not (good / "weights.kept2").exists()


def test_a_file_or_a_link_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(CheckpointError, match="a file of that name exists"):
        write_folder_atomically(tmp_path / "model", lambda aside: (aside / "weights").write_text("new"))
    assert (tmp_path / "model").read_text() == "mine"
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    write_folder_atomically(tmp_path / "link", lambda aside: (aside / "weights").write_text("new"))
    assert os.readlink(tmp_path / "link") == "disk"
    assert content(tmp_path / "disk") == {"weights": "new"}


@pytest.mark.parametrize("listed", [True, False], ids=["with a list", "from an older version"])
def test_rotation_removes_what_was_written_only(tmp_path, listed):
    folders = [checkpoint(tmp_path, step) for step in (1, 2, 3)]
    (folders[0] / "evaluation.json").write_text("mine")
    for folder in folders if not listed else ():
        (folder / MANIFEST).unlink()
    rotate(tmp_path, keep=1, kept_steps=())
    assert list_checkpoints(tmp_path) == folders[2:]
    assert content(folders[0]) == {"evaluation.json": "mine"}
    assert not folders[1].exists()
    remove_checkpoint(folders[2])
    assert not folders[2].exists()


def test_a_run_killed_between_two_renames_gets_its_checkpoint_back(tmp_path):
    folder = checkpoint(tmp_path, 7)
    (folder / "mine").write_text("a note")
    folder.rename(tmp_path / ".checkpoint-000007.1234abcd.old")
    (tmp_path / ".checkpoint-000007.notes").mkdir()
    rotate(tmp_path, keep=2, kept_steps=())
    assert content(folder)["mine"] == "a note"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".checkpoint-000007.notes", folder.name]


def test_an_exception_in_the_middle_leaves_the_old_folder(good):
    def write(aside):
        (aside / "weights").write_text("half")
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        write_folder_atomically(good, write)
    assert_untouched(good)


def test_a_full_disk_leaves_the_old_folder(good):
    def write(aside):
        (aside / "weights").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(CheckpointError, match="could not write .*model.*No space left.*untouched"):
        write_folder_atomically(good, write)
    assert_untouched(good)


@pytest.mark.parametrize("writer", ["torch", "safetensors"])
def test_a_write_that_the_system_refuses_leaves_the_old_folder(good, writer):
    """A limit on the size of a file stands in for a full disk: the libraries' own writers fail in the middle."""
    tensors = {"weight": torch.zeros(1_000_000)}

    def write(aside):
        torch.save(tensors, aside / "weights") if writer == "torch" else save_file(tensors, aside / "weights")

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(CheckpointError, match="could not write"):
            write_folder_atomically(good, write)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_untouched(good)


def test_a_failing_rename_puts_the_old_folder_back(good, monkeypatch):
    real = os.replace

    def replace(source, target):
        if str(source).endswith(".part"):
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr(checkpointing.os, "replace", replace)
    with pytest.raises(CheckpointError, match="Input/output error"):
        write_folder_atomically(good, lambda aside: (aside / "weights").write_text("new"))
    assert_untouched(good)


def test_json_is_written_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "log.json"
    write_json_atomically(path, {"loss": [1.5], "name": "caf\u00e9"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"loss": [1.5], "name": "caf\u00e9"}

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpointing.os, "replace", full)
    with pytest.raises(CheckpointError, match=r"log\.json.*No space left"):
        write_json_atomically(path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["log.json"]
    assert json.loads(path.read_text(encoding="utf-8"))["loss"] == [1.5]


def test_rotation_keeps_the_newest_and_the_best(tmp_path):
    folders = {step: checkpoint(tmp_path, step) for step in (5, 10, 15, 20, 100)}
    rotate(tmp_path, keep=2, kept_steps={10})
    assert list_checkpoints(tmp_path) == [folders[10], folders[20], folders[100]]
    rotate(tmp_path, keep=2, kept_steps={100})
    assert list_checkpoints(tmp_path) == [folders[20], folders[100]]


def test_rotation_clears_what_killed_runs_left(tmp_path):
    kept = checkpoint(tmp_path, 5)
    for name in (".checkpoint-000010.1234abcd.part", ".checkpoint-000005.1234abcd.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / STATE_FILE).write_text("{")
    assert list_checkpoints(tmp_path) == [kept]
    rotate(tmp_path, keep=2, kept_steps={None})
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]


def test_only_whole_checkpoints_are_listed(tmp_path):
    kept = checkpoint(tmp_path, 3)
    (tmp_path / "checkpoint-000009").mkdir()
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / STATE_FILE).write_text("{}")
    assert list_checkpoints(tmp_path) == [kept]
    assert list_checkpoints(tmp_path / "none") == []
    assert read_state(kept) == {"step": 3}


def test_a_damaged_or_missing_state_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=f"{STATE_FILE} is missing"):
        read_state(tmp_path)
    (tmp_path / STATE_FILE).write_text('{"step": ')
    with pytest.raises(CheckpointError, match=f"{STATE_FILE} is damaged"):
        read_state(tmp_path)
