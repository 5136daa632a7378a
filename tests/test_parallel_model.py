"""The model of several GPUs: its counts against a real model, optimiser and graph, its formulas at their limits."""

import dataclasses

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
from arche_mdlm.configuration.settings import TrainingSettings
from arche_mdlm.training.loop.optimizers import build_optimizers
from arche_mdlm.training.models.flops import StepFlops
from benchmarks.parallel.model import (
    H100,
    Assumptions,
    Batch,
    ModelSize,
    activation_bytes,
    memory,
    predict,
    recommend,
    ring_traffic,
    traffic,
)

SHAPE = {"vocab_size": 64, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
BATCH = Batch(rows=5, length=32, supervised=0.5)  # 160 tokens: no activation has the shape of a weight


def build(arm: str, **changes):
    if arm == "mdlm":
        return MDLMForMaskedDiffusion(MDLMConfig(mask_token_id=63, **SHAPE | changes)).train()
    return LlamaForCausalLM(LlamaConfig(**SHAPE | changes)).train()


@pytest.fixture
def size() -> ModelSize:
    return ModelSize.of(build("mdlm"))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("arm", ["mdlm", "ar"])
def test_weights_gradients_and_states_are_those_of_a_real_step(arm, tied):
    model = build(arm, tie_word_embeddings=tied)
    (optimizer,) = build_optimizers(model, TrainingSettings())
    ids = torch.randint(0, 63, (2, 8))
    canvas = torch.full_like(ids, 63) if arm == "mdlm" else ids  # masks: labels of given tokens are refused
    model(input_ids=canvas, labels=ids).loss.backward()
    optimizer.step()
    states = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]

    size = ModelSize.of(model)
    predicted = memory(size, BATCH, 1, "ddp")

    assert predicted.parameters == sum(p.nbytes for p in model.parameters())
    assert predicted.gradients == sum(p.grad.nbytes for p in model.parameters())
    assert predicted.optimizer == sum(value.nbytes for value in states)
    embeddings = model.get_input_embeddings().weight.numel() * (1 if tied else 2)
    assert size.root_parameters == embeddings + model.model.norm.weight.numel()
    eighth = memory(size, BATCH, 8, "fsdp2")
    assert [8 * eighth.parameters, 8 * eighth.gradients, 8 * eighth.optimizer] == [
        predicted.parameters, predicted.gradients, predicted.optimizer]  # fmt: skip


@pytest.mark.parametrize("arm", ["mdlm", "ar"])
def test_activations_are_what_autograd_keeps_of_a_layer(arm):
    """Two layers against three, under bf16 autocast: distinct tensors, weights and their copies aside."""

    def kept(layers: int) -> int:
        model = build(arm, num_hidden_layers=layers)
        shapes = {shape for p in model.parameters() for shape in (p.shape, p.t().shape if p.dim() == 2 else p.shape)}
        tensors = {}

        def pack(tensor):
            if tensor.shape not in shapes:
                tensors[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        ids = torch.randint(0, 63, (5, 32))
        extra = {} if arm == "mdlm" else {"use_cache": False}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast("cpu", dtype=torch.bfloat16):
            model.model(input_ids=ids, **extra)
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())

    size = ModelSize.of(build(arm))
    assert activation_bytes(size, BATCH) == 3 * (kept(3) - kept(2))
    checkpointed = activation_bytes(size, dataclasses.replace(BATCH, checkpointing=True))
    assert checkpointed == kept(3) - kept(2) + 3 * 5 * 32 * 4 * 128


def test_one_gpu_sends_nothing_and_the_count_of_operations_is_the_trainer_s(size):
    for strategy in ("ddp", "fsdp2"):
        assert traffic(size, BATCH, 1, strategy).total == 0
        assert predict(size, BATCH, 1, strategy).exposed == 0
    perfect = Assumptions(attainable=1.0, memory=float("inf"))
    alone = predict(size, BATCH, 1, "ddp", assumptions=perfect)
    assert alone.mfu == pytest.approx(1.0)
    flops = StepFlops.of(build("mdlm").config, "mlp").count(5, 32, 80)
    selected = predict(size, BATCH, 1, "ddp", assumptions=perfect, selects=True)
    assert selected.seconds == pytest.approx(flops / H100.peak_flops)
    assert predict(size, BATCH, 1, "fsdp2", assumptions=perfect, selects=True).seconds == pytest.approx(alone.seconds)


@pytest.mark.parametrize("gpus", [2, 8, 64])
def test_traffic_is_that_of_zero(size, gpus):
    """Of float32 weights and gradients: two volumes with DDP, three where layers are gathered twice."""
    share, weights = (gpus - 1) / gpus, 4 * size.parameters
    assert ring_traffic(weights, gpus, "all_reduce") == pytest.approx(2 * share * weights)
    assert traffic(size, BATCH, gpus, "ddp").total == pytest.approx(2 * share * weights)
    layers_only = dataclasses.replace(size, root_parameters=0)
    sent = traffic(layers_only, BATCH, gpus, "fsdp2", weight_bytes=4)
    assert sent.total == pytest.approx(3 * share * 4 * layers_only.parameters)
    assert traffic(layers_only, BATCH, gpus, "fsdp2").total == pytest.approx(2 * share * 4 * layers_only.parameters)
    twice = dataclasses.replace(BATCH, accumulation=2)
    assert traffic(size, twice, gpus, "fsdp2").total == 2 * traffic(size, BATCH, gpus, "fsdp2").total
    assert traffic(size, twice, gpus, "ddp") == traffic(size, BATCH, gpus, "ddp")


def test_what_is_not_hidden_is_waited_for(size):
    slow = dataclasses.replace(H100, node_link=1e3)
    for strategy in ("ddp", "fsdp2"):
        sent = traffic(size, BATCH, 8, strategy).total
        none = predict(size, BATCH, 8, strategy, slow, Assumptions(overlap=0.0, links=1.0, hop=0.0))
        assert none.exposed == pytest.approx(sent / 1e3)
        some = predict(size, BATCH, 8, strategy, slow, Assumptions(overlap=1.0, links=1.0, hop=0.0))
        computing = some.seconds - some.exposed
        assert none.exposed - computing < some.exposed < none.exposed
    free = predict(size, BATCH, 8, "ddp", assumptions=Assumptions(links=float("inf"), hop=0.0))
    assert free.exposed == 0
    across = dataclasses.replace(H100, network=1e3)
    assert predict(size, BATCH, 8, "ddp", across) == predict(size, BATCH, 8, "ddp")
    assert predict(size, BATCH, 16, "ddp", across).exposed > 1e3 * predict(size, BATCH, 16, "ddp").exposed


def test_checkpointing_costs_a_forward_pass_of_the_layers(size):
    batch = dataclasses.replace(BATCH, supervised=0.0)
    perfect = Assumptions(attainable=1.0, memory=float("inf"))
    plain = predict(size, batch, 1, "ddp", assumptions=perfect)
    again = predict(size, dataclasses.replace(batch, checkpointing=True), 1, "ddp", assumptions=perfect)
    assert again.seconds == pytest.approx(4 / 3 * plain.seconds)
    assert again.mfu == pytest.approx(0.75 * plain.mfu)


def test_memory_bound_time_is_bytes_over_bandwidth(size):
    """Activations five times, logits at 50 bytes, the optimiser at 28 a parameter, where products cost nothing."""
    only = Assumptions(attainable=float("inf"), memory=1.0)
    logits = 80 * size.flops.head_rows
    carried = 5 * activation_bytes(size, BATCH) + 50 * logits + 28 * size.parameters
    assert predict(size, BATCH, 1, "ddp", assumptions=only).seconds == pytest.approx(carried / H100.memory_bandwidth)
    twice = dataclasses.replace(BATCH, accumulation=2)
    more = 5 * activation_bytes(size, BATCH) + 50 * logits
    expected = (carried + more) / H100.memory_bandwidth
    assert predict(size, twice, 1, "ddp", assumptions=only).seconds == pytest.approx(expected)


def test_the_strategy_is_the_fastest_that_fits(size):
    ddp, fsdp2 = (predict(size, BATCH, 8, strategy) for strategy in ("ddp", "fsdp2"))
    assert recommend([ddp, dataclasses.replace(fsdp2, seconds=0.96 * ddp.seconds)]) == ddp
    assert recommend([ddp, dataclasses.replace(fsdp2, seconds=0.94 * ddp.seconds)]).strategy == "fsdp2"
    between = dataclasses.replace(H100, memory=(ddp.memory.total + fsdp2.memory.total) / 2)
    assert recommend([predict(size, BATCH, 8, s, between) for s in ("ddp", "fsdp2")]).strategy == "fsdp2"
    small = dataclasses.replace(H100, memory=1e6)
    assert recommend([predict(size, BATCH, 8, s, small) for s in ("ddp", "fsdp2")]) is None


def test_what_cannot_be_predicted_is_refused(size):
    with pytest.raises(ValueError, match="strategy='zero' is not one of ddp, fsdp2"):
        predict(size, BATCH, 8, "zero")
    with pytest.raises(ValueError, match="gpus=0 must be at least 1"):
        memory(size, BATCH, 0, "ddp")
    with pytest.raises(ValueError, match="kind='scatter' is not one of gather, reduce_scatter, all_reduce"):
        ring_traffic(1.0, 2, "scatter")
