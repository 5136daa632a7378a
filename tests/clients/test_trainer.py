"""The stock Trainer trains and evaluates an MDLM: loss, metrics, the best model, resuming."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from arche_mdlm import MDLMForMaskedDiffusion
from arche_mdlm.schedule_mdlm import get_schedule
from arche_mdlm.training.batches.objectives import corrupt_batch

ROWS = [{"input_ids": torch.randint(4, 12, (10,), generator=torch.Generator().manual_seed(i))} for i in range(24)]


class Collator:
    """A user's collator: times, masks, labels; equal at every call, so that two losses can be compared."""

    def __init__(self, timesteps: bool = True):
        self.timesteps = timesteps

    def __call__(self, rows):
        ids = torch.stack([row["input_ids"] for row in rows])
        generator = torch.Generator().manual_seed(int(ids.sum()))
        corrupted = corrupt_batch(ids, torch.ones_like(ids).bool(), "nelbo", get_schedule("linear"), 3, generator)
        batch = {"input_ids": corrupted.input_ids, "labels": corrupted.labels}
        return batch | ({"timesteps": corrupted.timesteps} if self.timesteps else {})


@pytest.fixture
def trainer(build_mdlm, tmp_path):
    def make(model=None, collator=None, metrics=None, **arguments):
        arguments = {"output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 4, "max_steps": 6, "report_to": [],
                     "per_device_eval_batch_size": 5, "use_cpu": True, "disable_tqdm": True, "learning_rate": 1e-2,
                     "logging_steps": 1, "remove_unused_columns": False, "save_strategy": "no"} | arguments  # fmt: skip
        return Trainer(
            model or build_mdlm(), TrainingArguments(**arguments), collator or Collator(), ROWS, ROWS[:13],
            compute_metrics=metrics,
        )  # fmt: skip

    return make


def nelbo_of(model, rows) -> float:
    """By hand, as its docstring has it."""
    with torch.no_grad():
        batch = Collator()(rows)
        where = batch["labels"] != -100
        nll = torch.nn.functional.cross_entropy(
            model.eval()(batch["input_ids"]).logits[where], batch["labels"][where], reduction="none"
        )
        return float((nll / batch["timesteps"][where.nonzero()[:, 0]]).sum() / batch["labels"].numel())


def test_evaluation_has_a_loss_which_is_the_nelbo(trainer):
    run = trainer(per_device_eval_batch_size=13)
    assert run.evaluate()["eval_loss"] == pytest.approx(nelbo_of(run.model, ROWS[:13]), rel=1e-5)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_training_loss_is_the_nelbo(trainer, monkeypatch, accumulation):
    """Not twice as much: the Trainer counts labelled tokens, the NELBO is divided by all."""
    run = trainer(max_steps=1, gradient_accumulation_steps=accumulation, learning_rate=0.0)
    seen, stock = [], Collator.__call__
    monkeypatch.setattr(Collator, "__call__", lambda self, rows: seen.append(rows) or stock(self, rows))
    run.train()
    logged = next(entry["loss"] for entry in run.state.log_history if "loss" in entry)
    assert logged == pytest.approx(np.mean([nelbo_of(run.model, rows) for rows in seen[:accumulation]]), rel=1e-4)


def test_metrics_see_logits_of_the_labels_shape(trainer):
    seen = {}

    def metrics(prediction):
        seen["shapes"] = prediction.predictions.shape, prediction.label_ids.shape
        masked = prediction.label_ids != -100
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids)[masked].mean())}

    result = trainer(metrics=metrics, collator=Collator(timesteps=False)).evaluate()
    assert seen["shapes"] == ((13, 10, 40), (13, 10))
    assert 0 <= result["eval_accuracy"] <= 1
    assert np.isfinite(result["eval_loss"])


def test_the_best_model_is_kept_and_a_run_resumes(trainer, tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "seed": 1}
    whole = trainer(load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=False, **settings)
    whole.train()
    scores = [entry["eval_loss"] for entry in whole.state.log_history if "eval_loss" in entry]
    assert whole.state.best_metric == pytest.approx(min(scores))
    assert whole.evaluate()["eval_loss"] == pytest.approx(min(scores)), "the best weights were loaded"
    first = load_file(tmp_path / "out" / "checkpoint-6" / "model.safetensors")
    resumed = trainer(output_dir=str(tmp_path / "again"), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    again = load_file(tmp_path / "again" / "checkpoint-6" / "model.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    MDLMForMaskedDiffusion.from_pretrained(tmp_path / "again" / "checkpoint-6")


def test_label_smoothing_is_refused(trainer):
    with pytest.raises(ValueError, match="label_smoothing_factor"):
        trainer(label_smoothing_factor=0.1).train()


def test_a_collator_for_causal_models_is_refused(trainer):
    def causal(rows):
        ids = torch.stack([row["input_ids"] for row in rows])
        return {"input_ids": ids, "labels": ids.clone()}

    with pytest.raises(ValueError, match="no labelled position of input_ids holds the mask token"):
        trainer(collator=causal).train()
    with pytest.raises(ValueError, match="no labelled position of input_ids holds the mask token"):
        trainer(collator=causal).evaluate()
