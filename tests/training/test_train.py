"""Training end to end on short sentences: exact resumption, several processes, fine-tuning, and bad input."""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_training import MODEL
from transformers import AutoModelForCausalLM, AutoTokenizer

from arche_mdlm.configuration.settings import DataSettings
from arche_mdlm.training import train
from arche_mdlm.training.data.corpus import load_corpus
from arche_mdlm.training.loop import trainer as loop
from arche_mdlm.training.loop.evaluation import Evaluator
from arche_mdlm.training.loop.trainer import Trainer
from arche_mdlm.training.models.arms import arm_of
from arche_mdlm.training.models.loading import load_arm

REPOSITORY = Path(__file__).parents[2]
SETTINGS = {
    **MODEL,
    "training.max_steps": 8,
    "training.batch_size": 8,
    "training.warmup_steps": 2,
    "training.eval_every": 4,
    "training.save_every": 4,
    "training.log_every": 1,
}
ARMS = ("mdlm", "ar")


def sentences(names, verbs) -> list[str]:
    return [f"{n} {v} {w}." for n in names for v in verbs for w in ("home", "to me", "a cat", "red")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a corpus and a cache of its own."""
    folder = tmp_path_factory.mktemp("training")
    texts = sentences(("Tim", "Sue", "Ann", "Bob", "A dog"), ("ran", "sat", "saw", "hid"))
    (folder / "stories.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHE_MDLM_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture
def arguments(workplace, tmp_path):
    """The command line of an arm's run; keyword arguments change SETTINGS ("__" for a dot)."""

    def make(arm: str, *more: str, output_dir=tmp_path / "run", **changes) -> list[str]:
        settings = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
        line = [
            "--preset",
            f"quickstart-{arm}",
            "--data",
            str(workplace / "stories.jsonl"),
            "--output_dir",
            str(output_dir),
        ]
        for key, value in settings.items():
            line += ["--set", f"{key}={json.dumps(value)}"]
        return [*line, *more]

    return make


@pytest.fixture(scope="module")
def whole(workplace):
    """Folder of a run of an arm that nothing interrupted, by arm."""
    folders = {}

    def run(arm: str) -> Path:
        if arm not in folders:
            folders[arm] = workplace / f"whole-{arm}"
            line = ["--preset", f"quickstart-{arm}", "--data", str(workplace / "stories.jsonl")]
            for key, value in SETTINGS.items():
                line += ["--set", f"{key}={json.dumps(value)}"]
            assert train.main([*line, "--output_dir", str(folders[arm])]) == 0
        return folders[arm]

    return run


def figures(folder: Path) -> list[dict]:
    """The run's log without times."""
    log = json.loads((folder / "training_log.json").read_text(encoding="utf-8"))
    return [{key: value for key, value in entry.items() if "second" not in key} for entry in log]


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in figures(folder) if "loss" in entry]


def weights(folder: Path, step: int = 8) -> dict[str, torch.Tensor]:
    return load_file(folder / f"checkpoint-{step:06d}" / "model.safetensors")


def assert_same_run(folder: Path, other: Path) -> None:
    """Bit for bit: losses, validation figures, weights, optimiser."""
    assert figures(folder) == figures(other)
    mine, theirs = weights(folder), weights(other)
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name
    states = [
        torch.load(run / "checkpoint-000008" / "optimizer.pt", weights_only=True)["optimizers"][0]["state"]
        for run in (folder, other)
    ]
    for mine, theirs in zip(states[0].values(), states[1].values(), strict=True):
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ARMS)
def test_a_run_learns_and_leaves_a_model_that_loads(whole, arm):
    folder = whole(arm)
    entries = figures(folder)
    scores = [entry["validation_nats"] for entry in entries if "validation_nats" in entry]
    assert len(losses(folder)) == 8
    assert len(scores) == 2
    # The diffusion arm pays for the tail of its canvas as well, about three tokens for each of the story.
    assert scores[1] < scores[0] < (4.5 if arm == "mdlm" else 1.2) * math.log(280)
    assert [entry["learning_rate"] for entry in entries if "loss" in entry][:2] == [0.0015, 0.003]
    final = folder / "final"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(final), AutoTokenizer.from_pretrained(final)
    assert torch.equal(model.state_dict()["model.embed_tokens.weight"], weights(folder)["model.embed_tokens.weight"])
    row = model.generate(**tokenizer("Tim", return_tensors="pt"), generator=torch.Generator().manual_seed(0)
                         if arm == "mdlm" else None)[0]  # fmt: skip
    assert len(row) <= 32
    assert tokenizer.mask_token_id not in row
    card = (final / "README.md").read_text(encoding="utf-8")
    assert f"**{scores[1]:.4f} nats a token**" in card
    assert str(folder.parent) not in card, "no paths of this machine"
    assert list(folder.glob("**/events.out.tfevents*")), "TensorBoard has its log"


@pytest.mark.parametrize("arm", ARMS)
def test_training_rows_in_the_log_are_scored_by_hand(whole, arm):
    folder = whole(arm)
    saved = json.loads((folder / "checkpoint-000008" / "trainer_state.json").read_text(encoding="utf-8"))["preset"]
    model, tokenizer = load_arm(folder / "checkpoint-000008")
    settings = DataSettings(**saved["data"])
    corpus = load_corpus(settings, None, tokenizer)
    rows = corpus.train.dataset[:]  # fewer than 128: all of them
    likelihood = arm_of(model).score(
        model.eval(), rows["input_ids"], canvas_length=settings.context_length, pad_token_id=tokenizer.pad_token_id,
        num_bytes=rows["num_bytes"], num_samples=saved["training"]["eval_samples"], seed=20260322, batch_size=32,
    )  # fmt: skip
    last = figures(folder)[-1]
    assert last["train_nats"] == pytest.approx(likelihood.nats_per_token, rel=1e-6)
    assert last["train_standard_error"] == pytest.approx(likelihood.standard_error, rel=1e-4)
    assert last["train_nats"] != last["validation_nats"]


def test_a_run_ends_at_the_first_evaluation_at_a_likelihood(arguments, tmp_path):
    each = {"training__eval_every": 2, "training__log_every": 3, "training__save_every": 8}
    assert train.main(arguments("ar", output_dir=tmp_path / "whole", **each)) == 0
    entries = figures(tmp_path / "whole")
    scores = {entry["step"]: entry["validation_nats"] for entry in entries if "validation_nats" in entry}
    assert list(scores) == [2, 4, 6, 8]
    assert scores[2] > scores[4]
    goal = each | {"training__stop_at_nats": scores[4]}
    assert train.main(arguments("ar", **goal)) == 0
    ended = figures(tmp_path / "run")
    assert ended[-1]["step"] == 4
    assert {e["step"]: e["validation_nats"] for e in ended if "validation_nats" in e} == {s: scores[s] for s in (2, 4)}
    assert [e["step"] for e in ended if "loss" in e] == [3, 4], "no step is missing in the log"
    final = load_file(tmp_path / "run" / "final" / "model.safetensors")
    same = weights(tmp_path / "run", 4)
    assert all(torch.equal(value, same[name]) for name, value in final.items())
    assert "- 4 steps of" in (tmp_path / "run" / "final" / "README.md").read_text(encoding="utf-8")
    # A run that has ended is complete, and one that has not been so good goes on to its last step.
    assert train.main(arguments("ar", "--resume", **goal)) == 0
    assert figures(tmp_path / "run")[-1]["step"] == 4
    never = each | {"training__stop_at_nats": 1e-3}
    assert train.main(arguments("ar", output_dir=tmp_path / "never", **never)) == 0
    assert figures(tmp_path / "never")[-1]["step"] == 8


def test_a_run_ends_past_its_best_evaluation(arguments, tmp_path, monkeypatch):
    """Evaluations at 2, 4, 6, ... 20, the best one at 4: the first one at two and a half times its step is that at 10."""
    scores = {2: 3.0, 4: 2.0}

    def evaluate(self, model, accelerator=None):
        return real(self, model, accelerator) | {"validation_nats": scores.get(trainers[-1].state.step, 2.5)}

    def remembered(self, *args, **kwargs):
        trainers.append(self)
        return made(self, *args, **kwargs)

    trainers, real, made = [], Evaluator.__call__, Trainer.__init__
    monkeypatch.setattr(Evaluator, "__call__", evaluate)
    monkeypatch.setattr(Trainer, "__init__", remembered)
    each = {"training__eval_every": 2, "training__log_every": 3, "training__max_steps": 20}
    past = each | {"training__stop_past_best": 2.5}
    assert train.main(arguments("ar", **past)) == 0
    ended = figures(tmp_path / "run")
    assert [e["step"] for e in ended if "validation_nats" in e] == [2, 4, 6, 8, 10]
    assert [e["step"] for e in ended if "loss" in e] == [3, 6, 9, 10], "no step is missing in the log"
    assert "- 10 steps of" in (tmp_path / "run" / "final" / "README.md").read_text(encoding="utf-8")
    assert train.main(arguments("ar", "--resume", **past)) == 0
    assert figures(tmp_path / "run")[-1]["step"] == 10, "a run that has ended is complete"
    # Interrupted at 9, which is no evaluation, it goes on to the same end. A multiple between two evaluations waits for the next one.
    cut = arguments("ar", output_dir=tmp_path / "cut", **past)
    assert train.main([*cut, "--stop_after", "9"]) == 0
    assert train.main([*cut, "--resume"]) == 0
    assert figures(tmp_path / "cut")[-1]["step"] == 10
    between = each | {"training__stop_past_best": 1.6}
    assert train.main(arguments("ar", output_dir=tmp_path / "between", **between)) == 0
    assert figures(tmp_path / "between")[-1]["step"] == 8
    scores.update({step: 3.0 - step / 100 for step in range(2, 22, 2)})  # always better: to the end
    assert train.main(arguments("ar", output_dir=tmp_path / "better", **past)) == 0
    assert figures(tmp_path / "better")[-1]["step"] == 20


@pytest.mark.parametrize("arm", ARMS)
def test_an_interrupted_run_equals_one_that_was_not(whole, arguments, tmp_path, arm):
    assert train.main(arguments(arm, "--stop_after", "3")) == 0
    assert losses(tmp_path / "run") == losses(whole(arm))[:3]
    assert train.main(arguments(arm, "--resume", "--stop_after", "4")) == 0
    assert train.main(arguments(arm, "--resume")) == 0
    assert_same_run(tmp_path / "run", whole(arm))


def test_a_run_stopped_between_two_log_entries_loses_no_count(arguments, tmp_path):
    """Tokens, losses and operations of the steps behind the last entry are in the checkpoint."""
    seldom = {"training__log_every": 3, "training__eval_every": 8, "training__save_every": 8}
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    assert train.main(arguments("mdlm", output_dir=whole, **seldom)) == 0
    for more in ([], ["--resume"], ["--resume"], ["--resume"]):
        assert train.main(arguments("mdlm", "--stop_after", "2", *more, output_dir=parts, **seldom)) == 0
    assert len(losses(whole)) == 3
    assert_same_run(parts, whole)
    states = [json.loads((run / "checkpoint-000008" / "trainer_state.json").read_text()) for run in (parts, whole)]
    for key in ("tokens", "supervised", "window"):
        left, right = (
            {k: v for k, v in s[key].items() if k != "seconds"} if key == "window" else s[key] for s in states
        )
        assert left == right, key
    assert states[0]["tokens"] == sum(entry.get("tokens", 0) for entry in figures(parts))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_resume_goes_on(whole, arguments, tmp_path, monkeypatch, number):
    real = Trainer._step

    def step(self, batch):
        if self.state.step == 4:
            signal.raise_signal(number)
        return real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", step)
        assert train.main(arguments("mdlm")) == 130
    assert (tmp_path / "run" / "checkpoint-000005").is_dir()
    assert train.main(arguments("mdlm", "--resume")) == 0
    assert_same_run(tmp_path / "run", whole("mdlm"))


KILLED = """
import os, signal, sys
from arche_mdlm.training import train
from arche_mdlm.training.loop.trainer import Trainer
from arche_mdlm.training.models.arms import arm_of
from arche_mdlm.training.models.loading import load_arm

real = Trainer._write

def write(self, aside, tensors):
    real(self, aside, tensors)
    if self.state.step == 8:
        (aside / "trainer_state.json").unlink()
        os.kill(os.getpid(), signal.SIGKILL)

Trainer._write = write
train.main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_from_its_last_checkpoint(whole, arguments, tmp_path):
    """SIGKILL while a checkpoint is being written."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run([sys.executable, "-c", KILLED, *arguments("mdlm")], env=environment, capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert any(name.endswith(".part") for name in left)
    assert {name for name in left if name.startswith("checkpoint")} == {"checkpoint-000004"}

    assert train.main(arguments("mdlm", "--resume")) == 0

    assert_same_run(tmp_path / "run", whole("mdlm"))
    assert not list((tmp_path / "run").glob("*.part"))


def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(whole, arguments, tmp_path, monkeypatch, capsys):
    real = loop.save_arm

    def save_arm(model, tokenizer, folder, **settings):
        real(model, tokenizer, folder, **settings)
        if "checkpoint-000008" in folder.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_arm", save_arm)
        assert train.main(arguments("mdlm")) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob(".*.part"))
    assert train.main(arguments("mdlm", "--resume")) == 0
    assert_same_run(tmp_path / "run", whole("mdlm"))


@pytest.mark.parametrize("arm", ARMS)
def test_accumulation_changes_nothing(whole, arguments, tmp_path, arm):
    assert train.main(arguments(arm, "--accumulation", "4", "--stop_after", "4")) == 0
    assert losses(tmp_path / "run") == pytest.approx(losses(whole(arm))[:4], abs=1e-5)
    mine, theirs = weights(tmp_path / "run", 4), weights(whole(arm), 4)
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-4, rtol=1e-4)


def test_averaged_weights_are_saved_and_resumed(whole, arguments, tmp_path, monkeypatch):
    seen, real = [], Trainer._step

    def step(self, batch):
        result = real(self, batch)
        seen.append(self.raw_model.state_dict()["model.norm.weight"].clone())
        return result

    monkeypatch.setattr(Trainer, "_step", step)
    averaged = {"training__ema_decay": 0.5}
    assert train.main(arguments("mdlm", output_dir=tmp_path / "ema", **averaged)) == 0
    average = seen[0]
    for value in seen[1:]:
        average = 0.5 * average + 0.5 * value
    torch.testing.assert_close(weights(tmp_path / "ema")["model.norm.weight"], average)
    assert losses(tmp_path / "ema") == losses(whole("mdlm")), "averaging changes no training"
    assert train.main(arguments("mdlm", "--stop_after", "3", **averaged)) == 0
    assert train.main(arguments("mdlm", "--resume", **averaged)) == 0
    assert_same_run(tmp_path / "run", tmp_path / "ema")


UNIFORM = {
    "model__config__diffusion": "uniform",
    "model__config__time_conditioning": "log_snr",
    "training__objective": "nelbo",
}


def test_a_curriculum_resumes_bit_for_bit(arguments, tmp_path, capsys):
    """Stopped within it: the temperature is a function of the step."""
    own = UNIFORM | {"training__curriculum_steps": 6, "training__curriculum_tau": [0.02, 0.001]}
    assert train.main(arguments("mdlm", output_dir=tmp_path / "whole", **own)) == 0
    assert "the first 6 steps (training.curriculum_steps) is not a bound" in capsys.readouterr().err
    assert train.main(arguments("mdlm", "--stop_after", "3", **own)) == 0
    assert train.main(arguments("mdlm", "--resume", **own)) == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
    "options", [{}, {"training__ema_decay": 0.5}, {"training__distillation_divergence": "forward"}]
)
def test_a_distillation_resumes_bit_for_bit_and_exports_its_last_step(arguments, tmp_path, capsys, options):
    """Stopped between two renewals of the teacher, whose weights are in the checkpoint."""
    assert train.main(arguments("mdlm", output_dir=tmp_path / "teacher", **UNIFORM)) == 0
    start = ["--init_from", str(tmp_path / "teacher" / "final")]
    own = UNIFORM | {"training__distillation_steps": 2, "training__eval_every": 2} | options
    assert train.main(arguments("mdlm", *start, output_dir=tmp_path / "whole", **own)) == 0
    said = capsys.readouterr()
    assert "the training loss is the divergence of student and teacher" in said.err
    assert "(the last one) is in" in said.out
    assert train.main(arguments("mdlm", *start, "--stop_after", "3", **own)) == 0
    assert train.main(arguments("mdlm", "--resume", **own)) == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_distillation_without_a_teacher_is_refused(arguments, capsys):
    assert train.main(arguments("mdlm", **UNIFORM | {"training__distillation_steps": 2})) == 2
    assert "training.distillation_steps=2 needs --init_from" in capsys.readouterr().err


# --- fine-tuning ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ARMS)
def test_fine_tuning_starts_from_the_given_model(whole, arguments, workplace, tmp_path, arm):
    data = tmp_path / "mine.jsonl"
    texts = sentences(("Max", "Zoe", "Leo", "Mia", "A cow"), ("ran", "sat", "hid"))
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    start = whole(arm) / "final"
    fine = arguments(arm, "--init_from", str(start), "--data", str(data), "--stop_after", "1", "--save_dtype", "bfloat16",
                     training__max_steps=1, training__learning_rate=1e-9)  # fmt: skip

    assert train.main(fine) == 0

    before, after = load_file(start / "model.safetensors"), weights(tmp_path / "run", 1)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-6, rtol=0)
    assert load_file(tmp_path / "run" / "final" / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (start, tmp_path / "run" / "final")]
    assert tokenizers[0].get_vocab() == tokenizers[1].get_vocab()


# --- bad input --------------------------------------------------------------------------------------------------------


def error_of(capsys, line: list[str]) -> str:
    assert train.main(line) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--preset", "mini-mdml"], "preset='mini-mdml' is not one of"),
        (["--preset", "mini-mdml"], "did you mean 'mini-mdlm'?"),
        (["--objective", "nelb"], "training.objective='nelb' is not one of nelbo,"),
        (["--objective", "nelb"], "did you mean 'nelbo'?"),
        (["--objective", "next_token"], "does not work with model.architecture='mdlm'"),
        (["--data", "/nowhere/stories.jsonl"], "/nowhere/stories.jsonl"),
        (["--set", "training.max_step=3"], "training.max_step is not a setting"),
        (["--set", "training.max_steps"], "must be KEY=VALUE"),
        (["--set", "training.max_steps=0"], "training.max_steps=0 must be at least 1"),
        (["--set", "training.batch_size=9", "--accumulation", "2"], "training.batch_size=9 must be a multiple"),
        (["--set", "training.batch_size=5000"], "training.batch_size=5000 is more than the"),
        (
            ["--set", "data.validation_fraction=null"],
            "is one file: give --validation_data FILE",
        ),
        (["--text_column", "story"], "story"),
        (["--init_from", "/nowhere/model"], "/nowhere/model"),
    ],
)
def test_bad_arguments_are_named(arguments, tmp_path, capsys, changes, message):
    assert message in error_of(capsys, arguments("mdlm", *changes))
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_run_is_not_overwritten_by_chance(whole, arguments, capsys):
    folder = whole("mdlm")
    before = weights(folder)["model.norm.weight"]
    message = error_of(capsys, arguments("mdlm", output_dir=folder))
    assert "already holds a run" in message
    assert "--resume" in message
    assert torch.equal(weights(folder)["model.norm.weight"], before)


def test_overwrite_starts_afresh(arguments, tmp_path):
    for more in ([], ["--overwrite"]):
        assert train.main(arguments("ar", "--stop_after", "1", *more)) == 0
        assert len(losses(tmp_path / "run")) == 1


def test_what_is_no_whole_checkpoint_is_refused(whole, arguments, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "not a checkpoint" in error_of(capsys, arguments("mdlm", "--init_from", str(tmp_path / "empty")))

    broken = tmp_path / "broken"
    shutil.copytree(whole("mdlm") / "final", broken)
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    message = error_of(capsys, arguments("mdlm", "--init_from", str(broken)))
    assert "is incomplete" in message
    assert "model.layers.1.mlp.up_proj.weight" in message

    message = error_of(capsys, arguments("ar", "--init_from", str(whole("mdlm") / "final")))
    assert "holds a mdlm model, but preset 'quickstart-ar' trains llama: an MDLM cannot become an AR model" in message


def test_a_damaged_checkpoint_is_named(arguments, tmp_path, capsys):
    assert train.main(arguments("ar", "--stop_after", "1")) == 0
    (tmp_path / "run" / "checkpoint-000001" / "trainer_state.json").write_text("{")
    assert "trainer_state.json is damaged" in error_of(capsys, arguments("ar", "--resume"))


def test_a_run_without_one_finite_evaluation_ends_in_one_line(arguments, tmp_path, monkeypatch, capsys):
    stock = loop.Trainer.evaluate

    def without_a_number(self):
        evaluator = self.evaluator
        self.evaluator = lambda *a: evaluator(*a) | {"validation_nats": math.nan}
        try:
            return stock(self)
        finally:
            self.evaluator = evaluator

    monkeypatch.setattr(loop.Trainer, "evaluate", without_a_number)
    assert train.main(arguments("ar")) == 2
    assert "was NaN or infinite at every evaluation" in capsys.readouterr().err
    assert (tmp_path / "run" / "checkpoint-000008").is_dir()


# --- Muon and branches --------------------------------------------------------------------------------------------------

needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has Muon from 2.9 on")
MUON = {"training__optimizer": "muon", "training__schedule": "warmup_stable_decay", "training__decay_share": 0.5}


@needs_muon
@pytest.mark.parametrize("arm", ARMS)
def test_muon_resumes_bit_for_bit(arguments, tmp_path, arm):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train.main(arguments(arm, output_dir=whole, **MUON)) == 0
    assert train.main(arguments(arm, "--stop_after", "5", output_dir=halves, **MUON)) == 0
    assert train.main(arguments(arm, "--resume", output_dir=halves, **MUON)) == 0
    assert_same_run(whole, halves)
    states = torch.load(whole / "checkpoint-000008" / "optimizer.pt", weights_only=True)["optimizers"]
    assert "momentum_buffer" in states[1]["state"]["model.layers.0.self_attn.q_proj.weight"]
    log = json.loads((whole / "training_log.json").read_text(encoding="utf-8"))
    assert all(math.isfinite(entry["loss"]) for entry in log if "loss" in entry)


@needs_muon
def test_a_branch_is_the_run_of_its_length(arguments, tmp_path):
    """A long run kept at its peak rate, and a short one that leaves it: the weights of a run that was short all along."""
    trunk, branch, short = (tmp_path / name for name in ("trunk", "branch", "short"))
    long = MUON | {"training__max_steps": 16, "training__branches": [6], "training__keep_checkpoints": 1}
    brief = MUON | {"training__max_steps": 6}
    assert train.main(arguments("mdlm", output_dir=trunk, **long)) == 0
    assert (trunk / "checkpoint-000003").is_dir()
    assert train.main(arguments("mdlm", "--branch_from", str(trunk), output_dir=branch, **brief)) == 0
    assert train.main(arguments("mdlm", output_dir=short, **brief)) == 0
    mine, theirs = (load_file(run / "checkpoint-000006" / "model.safetensors") for run in (branch, short))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@needs_muon
def test_a_branch_that_leaves_nothing_is_refused(arguments, tmp_path, capsys):
    trunk = tmp_path / "trunk"
    assert train.main(arguments("mdlm", output_dir=trunk, **MUON)) == 0
    line = arguments(
        "mdlm", "--branch_from", str(trunk), output_dir=tmp_path / "b", **MUON | {"training__max_steps": 6}
    )
    assert train.main(line) == 2
    assert "no checkpoint of step 3" in capsys.readouterr().err
    longer = arguments(
        "mdlm", "--branch_from", str(trunk), output_dir=tmp_path / "b", **MUON | {"training__max_steps": 16}
    )
    assert train.main(longer) == 2
    assert "shorter run" in capsys.readouterr().err
