"""PEFT: adapters on attention and on the head train, affect every path, and survive saving, loading and merging."""

import pytest
import torch

from arche_mdlm.metrics.likelihood import nelbo

peft = pytest.importorskip("peft")

TARGETS = {"attention": ["q_proj", "v_proj"], "head": ["lm_head"], "both": ["q_proj", "lm_head"]}
MASK = 3


def canvas_and_labels():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 40, (3, 12), generator=generator)
    masked = torch.rand(ids.shape, generator=generator) < 0.5
    return ids.masked_fill(masked, MASK), ids.masked_fill(~masked, -100)


def bound(model) -> torch.Tensor:
    ids = torch.randint(4, 40, (2, 10), generator=torch.Generator().manual_seed(2))
    return nelbo(model, ids, num_samples=4, generator=torch.Generator().manual_seed(1)).nats


def text(model) -> torch.Tensor:
    settings = {"max_new_tokens": 12, "num_diffusion_steps": 6, "do_sample": True}
    return model.generate(input_ids=torch.tensor([[0, 5]]), generator=torch.Generator().manual_seed(3), **settings)


@pytest.mark.parametrize("where", TARGETS)
@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_trains_and_is_seen_everywhere(build_mdlm, tmp_path, where, tied):
    base = build_mdlm(tie_word_embeddings=tied)
    plain_bound, plain_text = bound(base), text(base)
    config = peft.LoraConfig(r=4, lora_alpha=16, target_modules=TARGETS[where], init_lora_weights=False)
    model = peft.get_peft_model(base, config)
    canvas, labels = canvas_and_labels()

    train = model.train()(input_ids=canvas, labels=labels)
    evaluated = model.eval()(input_ids=canvas, labels=labels)
    torch.testing.assert_close(train.loss, evaluated.loss)
    train.loss.backward()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.abs().sum() > 0), name

    assert not torch.allclose(bound(model), plain_bound)
    assert not torch.equal(text(model), plain_text)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(build_mdlm(tie_word_embeddings=tied), tmp_path)
    assert torch.equal(bound(again), bound(model))
    assert torch.equal(text(again), text(model))
    if tied and "lm_head" in TARGETS[where]:
        return  # merged, it would change the embeddings as well: PEFT warns of it
    merged = again.merge_and_unload()
    torch.testing.assert_close(bound(merged), bound(model), rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    loaded = type(merged).from_pretrained(tmp_path / "merged")
    assert torch.equal(bound(loaded), bound(merged))


def test_an_adapter_learns_with_the_stock_trainer(build_mdlm, tmp_path):
    from transformers import Trainer, TrainingArguments

    model = peft.get_peft_model(build_mdlm(), peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    canvas, labels = canvas_and_labels()
    rows = [{"input_ids": c, "labels": label} for c, label in zip(canvas, labels, strict=True)]
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=30,
        learning_rate=2e-2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.7 * before
