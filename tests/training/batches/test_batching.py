"""Batches as a function of (seed, step): every row once, the same for any number of processes and for both arms."""

import random

import datasets
import numpy as np
import pytest
import torch

from arche_mdlm import MDLMConfig
from arche_mdlm.configuration.settings import TrainingSettings
from arche_mdlm.training.batches.batching import BatchPlanner, document_positions, label_positions, lay_out
from arche_mdlm.training.batches.step_batches import StepBatches

BOS, EOS, PAD, MASK = range(4)
CONTEXT = 24


def planner(lengths=None, seed=0, **changes) -> BatchPlanner:
    lengths = [len(row) for row in ROWS["input_ids"]] if lengths is None else lengths
    return BatchPlanner(lengths, **{"batch_size": 8, "context_length": CONTEXT, "seed": seed, **changes})


def stories(count: int) -> list[list[int]]:
    draw = random.Random(0)
    return [[BOS, *(draw.randrange(4, 40) for _ in range(draw.randrange(2, 18))), EOS] for _ in range(count)]


ROWS = datasets.Dataset.from_dict({"input_ids": stories(67)})


# --- plans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [8, 64, 67, 400])
def test_an_epoch_has_every_row_at_most_once_and_all_that_fill_a_batch(count):
    plans = planner([5] * count, context_length=5)
    per_epoch = count // 8
    for epoch in range(3):
        rows = [row for step in range(per_epoch) for row in plans.plan(epoch * per_epoch + step).rows]
        assert len(rows) == len(set(rows)) == per_epoch * 8
        assert set(rows) <= set(range(count))


def test_a_plan_depends_on_seed_and_step_only():
    steps = list(range(40))
    expected = [planner().plan(step) for step in steps]
    random.Random(1).shuffle(steps)
    mixed = planner()
    assert all(mixed.plan(step) == expected[step] for step in steps)
    assert list(planner().from_step(30, 40)) == expected[30:]
    assert [planner(seed=1).plan(step).rows for step in range(8)] != [plan.rows for plan in expected[:8]]
    assert [plan.rows for plan in expected[:8]] != [plan.rows for plan in expected[8:16]], "another order each epoch"


def test_canvases_lie_between_the_longest_row_and_the_context():
    lengths = planner().lengths
    plans = [planner().plan(step) for step in range(400)]
    for plan in plans:
        assert max(lengths[row] for row in plan.rows) <= plan.canvas_length <= CONTEXT
        assert plan.num_real_tokens == sum(lengths[row] - 1 for row in plan.rows)
    short = sum(plan.canvas_length < CONTEXT for plan in plans) / 400
    assert 0.3 < short < 0.5, "half of the batches, less those that draw the context itself"
    assert {planner(short_canvas_share=0.0).plan(step).canvas_length for step in range(50)} == {CONTEXT}
    assert len({planner(short_canvas_share=1.0).plan(step).canvas_length for step in range(50)}) > 5


def test_too_little_data_is_an_error():
    with pytest.raises(ValueError, match="training.batch_size=8 is more than the 7 rows"):
        planner([5] * 7)


# --- layout -----------------------------------------------------------------------------------------------------------


def test_the_tail_is_padded_supervised_and_not_real():
    canvas = lay_out([{"input_ids": [BOS, 5, EOS]}, {"input_ids": [BOS, 5, 6, 7, EOS]}], 6, PAD, leading_bos=True)
    assert canvas.input_ids.tolist() == [[BOS, 5, EOS, PAD, PAD, PAD], [BOS, 5, 6, 7, EOS, PAD]]
    assert canvas.maskable.int().tolist() == [[0, 1, 1, 1, 1, 1]] * 2
    assert canvas.real.int().tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]]
    assert canvas.document_ids is None
    assert bool(lay_out([{"input_ids": [5, 6]}], 2, PAD, leading_bos=False).maskable.all())


def test_positions_start_again_at_each_document():
    documents = torch.tensor([[0, 0, 0, 1, 1, 2], [4, 5, 5, 5, 5, 5]])
    assert document_positions(documents).tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 4]]


@pytest.mark.parametrize("attention", ["sdpa", "eager", "flex_attention"])
@pytest.mark.parametrize("arm", ["tiny_mdlm", "tiny_ar"])
def test_packed_documents_do_not_see_each_other(request, arm, attention):
    model = request.getfixturevalue(arm)
    model.set_attn_implementation(attention)
    lengths = (7, 1, 1, 5)
    documents = [torch.randint(4, 40, (2, length)) for length in lengths]
    ids = torch.cat([torch.full((2, length), number) for number, length in enumerate(lengths)], dim=1)
    extra = {"use_cache": False} if arm == "tiny_ar" else {}  # with a cache transformers does not look for documents
    with (
        torch.no_grad(),
        torch.compiler.set_stance("force_eager"),
    ):  # Llama would compile flex attention, which is wrong on a CPU
        packed = torch.cat(documents, dim=1)
        together = model(input_ids=packed, position_ids=document_positions(ids), **extra).logits
        apart = torch.cat([model(input_ids=document).logits for document in documents], dim=1)
        mixed = model(input_ids=packed, **extra).logits
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(mixed[:, 8:], apart[:, 8:], atol=1e-3)


def test_indices_of_labels_come_in_few_sizes_and_hold_each_label_once():
    generator = torch.Generator().manual_seed(0)
    sizes = set()
    for _ in range(200):
        rate = torch.rand(4, 1, generator=generator)
        scored = torch.rand(4, 40, generator=generator) < rate
        index = label_positions(scored)
        assert len(set(index.tolist())) == len(index)
        assert int(scored.flatten()[index].sum()) == int(scored.sum())
        assert len(index) - int(scored.sum()) < 10
        sizes.add(len(index))
    assert sizes <= {10 * n for n in range(17)}
    assert len(sizes) > 4
    assert label_positions(torch.ones(3, 5, dtype=torch.bool)).tolist() == list(range(15))
    assert label_positions(torch.zeros(3, 5, dtype=torch.bool)).tolist() == []


# --- steps ------------------------------------------------------------------------------------------------------------


def batches(config, rank=0, world_size=1, rows=ROWS, plans=None, index_labels=False, **settings) -> StepBatches:
    settings = TrainingSettings(batch_size=8, max_steps=50, **settings)
    return StepBatches(rows, plans or planner(), settings, config, PAD, rank, world_size, index_labels)


@pytest.fixture
def configs(tiny_config, tiny_ar):
    return {"mdlm": MDLMConfig(**tiny_config, mask_token_id=MASK), "ar": tiny_ar.config}


def joined(micro_batches: list[dict]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([inputs[name] for inputs in micro_batches]) for name in micro_batches[0]}


@pytest.mark.parametrize("arm", ["mdlm", "ar"])
@pytest.mark.parametrize(("world_size", "accumulation"), [(2, 1), (1, 4), (2, 2), (4, 2)])
def test_shares_and_micro_batches_join_to_the_whole_batch(configs, arm, world_size, accumulation):
    for step in (0, 3, 20):
        whole = batches(configs[arm])[step]
        parts = [batches(configs[arm], rank, world_size, accumulation=accumulation)[step] for rank in range(world_size)]
        assert len(whole["inputs"]) == 1
        assert all(len(part["inputs"]) == accumulation for part in parts)
        together = joined([inputs for part in parts for inputs in part["inputs"]])
        assert together.keys() == whole["inputs"][0].keys()
        for name, value in together.items():
            assert torch.equal(value, whole["inputs"][0][name]), name
        for key in ("denominator", "num_tokens", "num_supervised"):
            assert {part[key] for part in parts} == {whole[key]}


def test_both_arms_see_the_same_rows(configs):
    for step in range(12):
        diffusion, causal = (batches(configs[arm])[step] for arm in ("mdlm", "ar"))
        inputs = diffusion["inputs"][0]
        clean = torch.where(inputs["labels"] == -100, inputs["input_ids"], inputs["labels"])
        rows = causal["inputs"][0]["input_ids"]
        assert torch.equal(clean[:, : rows.shape[1]], rows)
        assert bool((clean[:, rows.shape[1] :] == PAD).all())
        assert diffusion["num_tokens"] == causal["num_tokens"]


def test_the_diffusion_arm_s_batch(configs):
    corrupted = set()
    for step in range(20):
        batch = batches(configs["mdlm"], objective="nelbo")[step]
        inputs = batch["inputs"][0]
        assert bool((inputs["input_ids"][:, 0] == BOS).all())
        assert bool((inputs["labels"][:, 0] == -100).all())
        assert torch.equal(inputs["input_ids"] == MASK, inputs["labels"] != -100)
        assert "loss_weights" not in inputs, "the model's own: those of the NELBO"
        strata = ((1 - inputs["timesteps"].double()) * 8 + 1e-5).floor() % 8
        assert sorted(strata.tolist()) == list(range(8))
        assert batch["denominator"] == batch["num_tokens"]
        assert batch["num_supervised"] == int((inputs["labels"] != -100).sum())
        corrupted |= set(inputs["labels"].unique().tolist())
    assert {PAD, EOS} <= corrupted, "the tail and EOS are corrupted and supervised"
    batch = batches(configs["mdlm"], objective="masked_mean")[0]
    assert batch["denominator"] == batch["num_supervised"]


def test_the_ar_arm_pays_for_eos_and_nothing_after_it(configs):
    batch = batches(configs["ar"])[1]
    inputs = batch["inputs"][0]
    for ids, labels in zip(inputs["input_ids"].tolist(), inputs["labels"].tolist(), strict=True):
        end = ids.index(EOS) + 1
        assert labels == [-100, *ids[1:end], *[-100] * (len(ids) - end)]
    assert batch["denominator"] == batch["num_supervised"] == batch["num_tokens"]


def test_a_batch_is_a_function_of_seed_and_step(configs):
    one, again = batches(configs["mdlm"]), batches(configs["mdlm"])
    again[3], again[9]
    assert torch.equal(one[5]["inputs"][0]["input_ids"], again[5]["inputs"][0]["input_ids"])
    noise = [batches(configs["mdlm"], seed=seed)[5]["inputs"][0]["timesteps"] for seed in (0, 1)]
    assert not torch.equal(*noise)


@pytest.mark.parametrize("arm", ["mdlm", "ar"])
def test_packed_rows_count_no_bos(configs, arm):
    row = {"input_ids": [BOS, 5, 6, EOS, BOS, 7, EOS, BOS, 8, 9], "document_ids": [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]}
    rows = datasets.Dataset.from_list([row] * 8)
    plans = planner([10] * 8, context_length=10, short_canvas_share=0.0)
    batch = batches(configs[arm], rows=rows, plans=plans)[0]
    assert batch["denominator"] == 8 * 7
    inputs = batch["inputs"][0]
    assert "attention_mask" not in inputs, "no mask is carried to the device: positions say it"
    assert inputs["position_ids"][0].tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1, 2]
    starts = [0, 4, 7]
    assert bool((inputs["input_ids"][:, starts] == BOS).all())
    assert bool((inputs["labels"][:, starts] == -100).all())


def test_few_lengths_where_they_are_asked_for():
    fine, coarse = planner(), planner(length_multiple=16)
    lengths = {coarse.plan(step).canvas_length for step in range(60)}
    assert len(lengths) < len({fine.plan(step).canvas_length for step in range(60)})
    for step in range(60):
        exact, rounded = fine.plan(step), coarse.plan(step)
        assert rounded.rows == exact.rows
        assert rounded.canvas_length == min(-(-exact.canvas_length // 16) * 16, fine.context_length)


def test_a_larger_pool_pads_less():
    def padding(pool: int) -> int:
        lengths = np.random.default_rng(0).integers(10, 200, 1024).tolist()
        plans = BatchPlanner(lengths, batch_size=8, context_length=200, seed=0, length_pool=pool)
        rows = [plans.plan(step).rows for step in range(plans.batches_per_epoch)]
        assert sorted(sum(rows, [])) == list(range(1024))
        return sum(
            len(batch) * max(lengths[row] for row in batch) - sum(lengths[row] for row in batch) for batch in rows
        )

    assert padding(64) < padding(16) < padding(1) / 2


def test_a_batch_that_does_not_divide_is_an_error(configs):
    with pytest.raises(ValueError, match="batch_size=8 must be a multiple of the 3 processes times.*accumulation=1"):
        batches(configs["mdlm"], world_size=3)
