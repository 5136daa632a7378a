"""Training end to end on short sentences: exact resumption, several processes, fine-tuning, and bad input."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import ARMS, UNIFORM, assert_same_run, figures, losses, sentences, weights
from transformers import AutoModelForCausalLM, AutoTokenizer

from arche_mdlm.configuration.settings import DataSettings
from arche_mdlm.training import train
from arche_mdlm.training.data.corpus import load_corpus
from arche_mdlm.training.loop.evaluation import Evaluator
from arche_mdlm.training.loop.trainer import Trainer
from arche_mdlm.training.models.arms import arm_of
from arche_mdlm.training.models.loading import load_arm

REPOSITORY = Path(__file__).parents[2]


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
    # Interrupted at 9, between two evaluations, it resumes to the same end. A multiple between two evaluations waits for the next one.
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
