"""Attention that opens from causal to full: masks, shares, backends, packed rows, resuming, and what is refused."""

import json
from dataclasses import replace

import datasets
import pytest
import torch

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
from arche_mdlm.configuration.checks import check_family
from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.configuration.settings import TrainingSettings
from arche_mdlm.family_mdlm import ORDERS
from arche_mdlm.order_mdlm import Whole
from arche_mdlm.sight_mdlm import sight_from
from arche_mdlm.training import train
from arche_mdlm.training.batches.annealing import annealed_sight, opened_share
from arche_mdlm.training.batches.batching import BatchPlanner
from arche_mdlm.training.batches.step_batches import StepBatches
from arche_mdlm.training.loop.evaluation import Evaluator

LENGTH, STEPS = 24, 10


def sight(step, position_ids=None, length=LENGTH, seed=0, **changes):
    config = MDLMConfig(vocab_size=40, mask_token_id=3, **changes)
    settings = TrainingSettings(attention_annealing_steps=STEPS, seed=seed)
    return annealed_sight(settings, config, step, length, position_ids)


def causal(length=LENGTH) -> torch.Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


def test_a_ratio_of_none_is_causal_and_of_all_is_full(monkeypatch):
    assert [opened_share(step, STEPS) for step in (0, 4, 9, 10, 99)] == [0.1, 0.5, 1.0, 1.0, 1.0]
    assert opened_share(0, None) == 1.0
    assert sight(STEPS - 1) is None, "full: as without the option"
    assert sight(STEPS - 2) is not None
    monkeypatch.setattr("arche_mdlm.training.batches.annealing.opened_share", lambda *_: 0.0)
    assert torch.equal(sight(0)[0], causal())


def test_the_share_of_opened_pairs_is_the_ratio():
    for step in (0, 2, 7):
        opened = torch.stack([sight(step, seed=seed)[0][~causal()] for seed in range(200)])
        share, count = (step + 1) / STEPS, opened.numel()
        assert abs(float(opened.double().mean()) - share) < 4 * (share * (1 - share) / count) ** 0.5
        assert bool(sight(step)[0][causal()].all())


def test_each_step_and_seed_has_a_draw_of_its_own():
    assert torch.equal(sight(4), sight(4))
    draws = [sight(4), sight(4, seed=1), sight(5)]
    assert not any(torch.equal(a, b) for a, b in ((draws[0], draws[1]), (draws[0], draws[2])))
    closed = draws[0] & ~draws[2]
    assert bool(closed.any()), "not the pairs of the step before and a few more"


def test_documents_and_blocks_still_hold():
    position_ids = torch.tensor([[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 4]])
    documents = torch.tensor([[0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 1, 1]])
    plain = sight(5, length=6)
    assert torch.equal(sight(5, position_ids, 6), plain & (documents[:, :, None] == documents[:, None]))
    block = torch.arange(LENGTH) // 4
    in_blocks = sight(5, attention_block_length=4)
    assert torch.equal(in_blocks[0], sight(5)[0] & (block <= block[:, None]))


@pytest.mark.parametrize("attention", ["sdpa", "eager", "flex_attention"])
@torch.no_grad()
def test_every_backend_sees_what_the_pairs_say(build_mdlm, attention):
    """Padding holds as well; the reference is a mask by hand."""
    pairs, ids = sight(3), torch.randint(4, 40, (3, LENGTH))
    attended = torch.ones_like(ids)
    attended[1, :5] = attended[2, -7:] = 0
    model = build_mdlm()
    model.set_attn_implementation("sdpa")
    expected = model(
        ids,
        attention_mask=(pairs & attended.bool()[:, None])[:, None],
        position_ids=(attended.cumsum(-1) - 1).clamp(min=0),
    ).logits
    model.set_attn_implementation(attention)
    for given in (pairs, pairs.expand(3, -1, -1), sight_from(pairs)):
        found = model(ids, attention_mask=attended, sight=given).logits
        real = attended.bool() & (attended.cumsum(-1) > 0)
        torch.testing.assert_close(found[real], expected[real], atol=2e-5, rtol=1e-5)


# --- batches ----------------------------------------------------------------------------------------------------------

ROWS = datasets.Dataset.from_dict({"input_ids": [[0, *range(4, 4 + n % 7 + 2), 1] for n in range(40)]})
PACKED = datasets.Dataset.from_dict(
    {"input_ids": [[0, 5, 6, 1, 0, 7, 8, 1]] * 16, "document_ids": [[0] * 4 + [1] * 4] * 16}
)


def batches(steps, rows=ROWS, world=(0, 1), index_labels=False, **settings) -> StepBatches:
    lengths = [len(row) for row in rows["input_ids"]]
    context = max(lengths) if "document_ids" in rows.column_names else LENGTH
    plans = BatchPlanner(lengths, batch_size=8, context_length=context, seed=0)
    training = TrainingSettings(batch_size=8, max_steps=20, attention_annealing_steps=steps, **settings)
    config = MDLMConfig(vocab_size=40, mask_token_id=3)
    return StepBatches(rows, plans, training, config, 2, *world, index_labels)


@pytest.mark.parametrize("rows", [ROWS, PACKED], ids=["rows", "packed"])
def test_a_batch_has_the_same_noise_and_any_share_of_it_the_same_sight(rows):
    for step in (0, 5):
        whole, without = batches(STEPS, rows)[step]["inputs"][0], batches(None, rows)[step]["inputs"][0]
        assert whole.keys() - without.keys() == {"sight"}
        assert all(torch.equal(whole[name], value) for name, value in without.items())
        parts = [
            inputs for rank in range(2) for inputs in batches(STEPS, rows, (rank, 2), accumulation=2)[step]["inputs"]
        ]
        assert len(parts) == 4
        expected = whole["sight"].expand(8, -1, -1)
        assert torch.equal(torch.cat([part["sight"].expand(2, -1, -1) for part in parts]), expected)
    opened, without = batches(STEPS, rows)[STEPS - 1]["inputs"][0], batches(None, rows)[STEPS - 1]["inputs"][0]
    assert opened.keys() == without.keys()
    assert all(torch.equal(opened[name], value) for name, value in without.items())


def test_no_position_learns_from_what_is_closed(build_mdlm):
    """At the first step, of a thousand, a masked position's loss depends on what stands before it and on few others."""
    model = build_mdlm().train()
    inputs = batches(1000)[0]["inputs"][0]
    row = 0
    labelled = (inputs["labels"][row] != -100).nonzero()[:, 0].tolist()
    pairs = inputs["sight"][0]
    hop = (pairs.float() @ pairs.float()) > 0  # two layers
    changed = inputs["input_ids"].clone()
    last = changed.shape[1] - 1
    changed[row, last] = 9

    def nll(ids):
        return model(**inputs | {"input_ids": ids}).token_nll

    moved = (nll(inputs["input_ids"]) - nll(changed)).abs() > 1e-6
    seen = {position for position in labelled if hop[position, last]}
    first = [int(position) for position, is_moved in zip(labelled, moved, strict=False) if is_moved]
    assert set(first) <= seen
    assert len(seen) < len(labelled)


def test_indices_of_labels_give_the_same_loss(build_mdlm):
    model = build_mdlm().train()
    for rows in (ROWS, PACKED):
        plain, indexed = (batches(5, rows, index_labels=wanted)[2]["inputs"][0] for wanted in (False, True))
        losses = [model(**inputs, num_items_in_batch=1).loss for inputs in (plain, indexed)]
        torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)


# --- runs -------------------------------------------------------------------------------------------------------------

SETTINGS = {
    "data.vocab_size": 280, "data.context_length": 32, "data.validation_fraction": 0.2, "model.config.vocab_size": 280,
    "model.config.hidden_size": 32, "model.config.intermediate_size": 64, "model.config.num_hidden_layers": 2,
    "model.config.max_position_embeddings": 32, "training.max_steps": 6, "training.batch_size": 8, "training.warmup_steps": 2,
    "training.eval_every": 6, "training.save_every": 3, "training.log_every": 1,
}  # fmt: skip


@pytest.fixture
def line(tmp_path, monkeypatch):
    monkeypatch.setenv("ARCHE_MDLM_CACHE", str(tmp_path / "cache"))
    names, verbs = ("Tim", "Sue", "Ann", "Bob"), ("ran", "sat", "saw", "hid")
    texts = [f"{n} {v} {w}." for n in names for v in verbs for w in ("home", "to me", "a cat", "red")]
    corpus = tmp_path / "stories.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    words = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    return ["--preset", "quickstart-mdlm", "--data", str(corpus), *words]


def test_a_run_resumed_while_attention_opens_is_the_uninterrupted_one(line, tmp_path, monkeypatch):
    scored = []
    plain_call = Evaluator.__call__

    def evaluate(self, model, accelerator=None):
        forward = type(model.model).forward
        monkeypatch.setattr(
            type(model.model),
            "forward",
            lambda trunk, *args, **kwargs: (scored.append(kwargs.get("sight")), forward(trunk, *args, **kwargs))[1],
        )
        result = plain_call(self, model, accelerator)
        monkeypatch.setattr(type(model.model), "forward", forward)
        return result

    monkeypatch.setattr(Evaluator, "__call__", evaluate)
    annealed = [*line, "--set", "training.attention_annealing_steps=5"]
    assert train.main([*annealed, "--output_dir", str(tmp_path / "whole")]) == 0
    assert train.main([*annealed, "--output_dir", str(tmp_path / "stopped"), "--stop_after", "3"]) == 0
    assert train.main(["--resume", "--output_dir", str(tmp_path / "stopped")]) == 0
    assert train.main([*line, "--output_dir", str(tmp_path / "full")]) == 0
    assert (
        train.main([*line, "--set", "training.attention_annealing_steps=1", "--output_dir", str(tmp_path / "one")]) == 0
    )
    weights = {
        name: (tmp_path / name / "checkpoint-000006" / "model.safetensors").read_bytes()
        for name in ("whole", "stopped", "full", "one")
    }
    assert weights["whole"] == weights["stopped"]
    assert weights["whole"] != weights["full"]
    assert weights["one"] == weights["full"], "the first step is the last one of the annealing"
    assert scored
    assert set(scored) == {None}, "the bound is that of full attention"


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("mini-ar", {}, "needs model.architecture='mdlm': 'llama' is always causal"),
        ("mini-block", {}, "does not work with model.config.diffusion='block'.*it works with masked, uniform"),
        ("mini-eso", {}, "does not work with model.config.diffusion='eso'"),
        ("mini-uniform_block", {}, "does not work with model.config.diffusion='uniform_block'"),
        ("mini-mdlm", {"training.max_steps": 5}, "is more than training.max_steps=5: attention would never become full"),
    ],
)  # fmt: skip
def test_where_attention_cannot_open_it_is_refused(preset, changes, message):
    with pytest.raises(ValueError, match=f"training.attention_annealing_steps=10 {message}"):
        load_preset(preset, {"training.attention_annealing_steps": 10, **changes})
    with pytest.raises(ValueError, match="training.attention_annealing_steps=0 must be at least 1"):
        load_preset("mini-mdlm", {"training.attention_annealing_steps": 0})


def test_it_is_for_the_families_of_the_whole_canvas():
    config = MDLMConfig(vocab_size=40, mask_token_id=3, attention_block_length=4)
    assert [name for name, make in ORDERS.items() if make(config) == Whole()] == ["whole"]


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"training.attention_annealing_steps": 2}, "training.attention_annealing_steps=2"),
        ({"data.layout": "packed"}, "data.layout='packed' and training.batch_size=16"),
        ({"model.config.diffusion": "eso"}, "model.config.diffusion='eso'"),
        ({"model.config.diffusion": "block", "model.config.attention_block_length": 4}, "model.config.diffusion='block'"),
    ],
)  # fmt: skip
def test_an_attention_without_a_mask_of_pairs_is_refused(changes, setting):
    def flash(preset):
        config = preset.model.config | {"attn_implementation": "flash_attention_2"}  # not installed here
        return replace(preset, model=replace(preset.model, config=config))

    check_family(flash(load_preset("mini-mdlm")))
    check_family(flash(load_preset("mini-mdlm", {"data.layout": "packed", "training.batch_size": 1})))
    with pytest.raises(ValueError, match=f"{setting} does not work with model.config.attn_implementation='flash_att"):
        check_family(flash(load_preset("mini-mdlm", changes)))


def test_a_block_model_to_be_tuned_is_refused_before_data_is_read(tmp_path, tiny_config, tokenizer, line, capsys):
    config = MDLMConfig(
        **tiny_config | {"vocab_size": 300}, mask_token_id=3, diffusion="block", attention_block_length=4
    )
    MDLMForMaskedDiffusion(config).save_pretrained(tmp_path / "block")
    tokenizer.save_pretrained(tmp_path / "block")
    start = ["--init_from", str(tmp_path / "block"), "--set", "training.attention_annealing_steps=2"]
    assert train.main([*line[:4], *start, "--output_dir", str(tmp_path / "run")]) == 2
    assert "does not work with model.config.diffusion='block'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
