"""The collator of the stock Trainer: its mean loss is the NELBO of each family, by enumeration where it is finite, and it trains."""

import pytest
import torch
from enumerated_masks import BOS, LENGTH, MASK, PAD, ROW, of_all_masks, of_blocks, tiny
from oracles.tables import TableLanguage
from transformers import LlamaConfig, Trainer, TrainerCallback, TrainingArguments
from uniform_model import UniformModel, exact_bound

from arche_mdlm import MDLMConfig
from arche_mdlm.metrics.likelihood import nelbo
from arche_mdlm.training import DataCollatorForMaskedDiffusion


def mean_loss(model, row: torch.Tensor, batches: int = 12, size: int = 400, **feature) -> tuple[float, float]:
    """The mean loss of collated batches, times the tokens it is divided by, and its standard error."""
    collate = DataCollatorForMaskedDiffusion(model, generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(batches):
        batch = collate([{"input_ids": row, **feature}] * size)
        with torch.no_grad():
            losses.append(float(model(**batch).loss) * batch["num_items_in_batch"] / size)
    found = torch.tensor(losses, dtype=torch.float64)
    return float(found.mean()), float(found.std() / batches**0.5)


@pytest.mark.parametrize("diffusion", ["masked", "block", "uniform", "uniform_block", "eso"])
def test_the_mean_loss_is_the_nelbo(diffusion):
    model, row = tiny(diffusion), ROW
    if diffusion == "uniform":
        model = UniformModel(TableLanguage.random(3, LENGTH, seed=5), wrong=0.3)
        row = torch.tensor([model.config.bos_token_id, 0, 2, 1])
    mean, error = mean_loss(model, row)
    if diffusion == "masked":
        expected = of_all_masks(model, row, [1, 2, 3])
    elif diffusion == "block":
        expected = of_blocks(model, row, 2)
    elif diffusion == "uniform":
        expected = exact_bound(model, row[1:])
    else:  # `nelbo` is tested against enumeration: here it is given many draws
        estimate = nelbo(model, row[None], num_samples=1500, generator=torch.Generator().manual_seed(2))
        expected, error = float(estimate.nats), (error**2 + float(estimate.standard_error) ** 2) ** 0.5
    assert error < 0.05 * expected
    assert abs(mean - expected) < 4 * error


@pytest.mark.parametrize("diffusion", ["masked", "block", "uniform", "uniform_block", "eso"])
def test_a_given_prompt_is_neither_corrupted_nor_learnt(diffusion):
    """The mean loss is the bound of the answer given the prompt, and so is `nelbo(condition_mask=)`."""
    model, labels = tiny(diffusion), torch.tensor([-100, -100, 2, 1])
    mean, error = mean_loss(model, ROW, labels=labels)
    bound = nelbo(
        model,
        ROW[None],
        condition_mask=labels[None] == -100,
        num_samples=1500,
        generator=torch.Generator().manual_seed(2),
    )
    both = (error**2 + float(bound.standard_error) ** 2) ** 0.5
    assert both < 0.06 * mean
    assert abs(mean - float(bound.nats)) < 4 * both
    if diffusion in ("masked", "block"):
        expected = of_all_masks(model, ROW, [2, 3]) if diffusion == "masked" else of_blocks(model, ROW, 2, given=2)
        assert abs(mean - expected) < 4 * error
        assert abs(float(bound.nats) - expected) < 4 * float(bound.standard_error) + 1e-4
    batch = DataCollatorForMaskedDiffusion(model)([{"input_ids": ROW, "labels": labels}] * 50)
    assert bool((batch["input_ids"][:, :2] == ROW[:2]).all())
    assert bool((batch["labels"][:, :2] == -100).all())


def test_the_tail_is_learnt_and_the_loss_is_divided_by_the_rows_own_tokens():
    rows = [{"input_ids": [BOS, 0, 1]}, {"input_ids": [PAD, BOS, 0, 1, 2, 2], "attention_mask": [0, 1, 1, 1, 1, 1]}]
    collate = DataCollatorForMaskedDiffusion(tiny(), length=8)
    labels = torch.cat([collate(rows)["labels"] for _ in range(60)])
    assert collate(rows)["num_items_in_batch"] == 2 + 4
    assert labels.shape == (120, 8)
    assert bool((labels[::2, 3:] == PAD).any(0).all()), "every pad of the tail is learnt at some time"
    assert bool((labels[:, 0] == -100).all())
    assert DataCollatorForMaskedDiffusion(tiny())(rows)["input_ids"].shape == (2, 5), "of the longest row"


def test_times_are_stratified_over_the_batch():
    times = DataCollatorForMaskedDiffusion(tiny())([{"input_ids": ROW}] * 16)["timesteps"]
    assert sorted(((1 - times.double()) * 16 + 1e-5).floor().long().remainder(16).tolist()) == list(range(16))


def test_noise_follows_the_seed_and_the_process(monkeypatch):
    def draw(rank: str) -> torch.Tensor:
        monkeypatch.setenv("RANK", rank)
        torch.manual_seed(3)
        return DataCollatorForMaskedDiffusion(tiny_model)([{"input_ids": ROW}] * 8)["timesteps"]

    tiny_model = tiny()
    assert torch.equal(draw("0"), draw("0"))
    assert not torch.equal(draw("0"), draw("1"))


def test_a_row_of_one_token_that_stays_as_it_is_has_no_loss():
    model = tiny().train()
    collate = DataCollatorForMaskedDiffusion(model)
    batches = [collate([{"input_ids": [BOS, 1]}]) for _ in range(40)]
    quiet = [batch for batch in batches if not bool((batch["labels"] != -100).any())]
    assert 0 < len(quiet) < 40
    loss = model(**quiet[0]).loss
    loss.backward()
    assert float(loss.detach()) == 0


WRONG = {
    "input_ids are missing": ({"text": "a"}, {}, "row 0 has no input_ids, but text"),
    "too long": ({"input_ids": [BOS, *[1] * 16]}, {}, "row 0 has 17 tokens, but the canvas has 16"),
    "longer than asked for": ({"input_ids": [BOS, 1, 1, 1]}, {"length": 3}, "row 0 has 4 tokens, but the canvas has 3"),
    "a mask": ({"input_ids": [BOS, MASK, 1]}, {}, "row 0 contains mask_token_id=5"),
    "nothing but a BOS": ({"input_ids": [BOS]}, {}, "row 0 has no token to learn"),
    "only a prompt": ({"input_ids": [BOS, 1], "labels": [-100, -100]}, {}, "row 0 has no token to learn"),
    "labels of another length": ({"input_ids": [BOS, 1], "labels": [1]}, {}, "row 0: labels of shape"),
    "an unknown objective": ({}, {"objective": "elbo"}, "objective='elbo' is not one of"),
    "a length past the context": ({}, {"length": 17}, "length=17 must be at least 2 and at most the model's context, 16"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_right_is_refused(case):
    row, options, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        DataCollatorForMaskedDiffusion(tiny(), **options)([row])


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="not a diffusion model.*DataCollatorForLanguageModeling"):
        DataCollatorForMaskedDiffusion(LlamaConfig())
    config = MDLMConfig(vocab_size=6, mask_token_id=5, hidden_size=8, num_attention_heads=1, pad_token_id=None)
    with pytest.raises(ValueError, match="pad_token_id=None"):
        DataCollatorForMaskedDiffusion(config)


class Counter(TrainerCallback):
    steps = 0

    def on_step_end(self, *_, **__):
        self.steps += 1


@pytest.mark.parametrize(
    ("diffusion", "adapters"),
    [(name, False) for name in ("masked", "block", "uniform", "uniform_block", "eso")]
    + [("masked", True), ("eso", True)],
)
def test_the_trainer_trains(diffusion, adapters, tmp_path):
    """Rows of one text: the bound falls, in training and as `eval_loss`, which is the bound."""
    model = tiny(diffusion)
    if adapters:
        peft = pytest.importorskip("peft")
        model = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj", "lm_head"]))
    rows, counter = [{"input_ids": ROW.tolist(), "attention_mask": [1] * len(ROW)}] * 32, Counter()
    arguments = TrainingArguments(
        str(tmp_path), max_steps=30, learning_rate=3e-2, per_device_train_batch_size=16, report_to=[], use_cpu=True,
        disable_tqdm=True, save_strategy="no", per_device_eval_batch_size=32,
    )  # fmt: skip
    collate = DataCollatorForMaskedDiffusion(model)
    trainer = Trainer(model, arguments, collate, rows, rows, callbacks=[counter])
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert counter.steps == 30
    after = trainer.evaluate()["eval_loss"]
    assert after < 0.6 * before
    estimate = nelbo(model, ROW[None], num_samples=200)
    assert after == pytest.approx(float(estimate.nats) / LENGTH, abs=0.25)
