"""Models placed elsewhere or in another number format: offloaded, quantised, exported, spread over processes, in threads."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, disk_offload

from arche_mdlm import MDLMForMaskedDiffusion
from arche_mdlm.metrics.likelihood import nelbo

MASK = 3


def bound(model) -> torch.Tensor:
    ids = torch.randint(4, 40, (2, 10), generator=torch.Generator().manual_seed(2))
    return nelbo(model, ids, num_samples=4, generator=torch.Generator().manual_seed(1)).nats


def text(model, **settings) -> torch.Tensor:
    settings = {"max_new_tokens": 12, "num_diffusion_steps": 6, "do_sample": True} | settings
    prompts = torch.tensor([[0, 5], [0, 7]])
    return model.generate(prompts, generator=torch.Generator().manual_seed(3), **settings)


@pytest.fixture(params=[False, True], ids=["plain", "conditioned"])
def model(request, build_mdlm):
    return build_mdlm(
        tie_word_embeddings=False, time_conditioning="additive" if request.param else "none", attention_bias=True
    )


# --- offloading -----------------------------------------------------------------------------------------------------


def test_offloaded_weights_write_the_same(model, tmp_path):
    expected = bound(model), text(model), text(model, sampler="confidence")
    model.save_pretrained(tmp_path / "model")
    layers = {f"model.layers.{i}": "cpu" for i in range(2)}
    common = {
        "model.embed_tokens": "cpu",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "model.time_embedding": "cpu",
    }
    loaded = MDLMForMaskedDiffusion.from_pretrained(
        tmp_path / "model", device_map=common | layers | {"lm_head": "disk"}, offload_folder=tmp_path / "offload"
    )
    assert loaded.lm_head.weight.device.type == "meta"
    ways = {
        "device_map": loaded,
        "cpu_offload": cpu_offload(MDLMForMaskedDiffusion.from_pretrained(tmp_path / "model"), torch.device("cpu")),
        "disk_offload": disk_offload(
            MDLMForMaskedDiffusion.from_pretrained(tmp_path / "model"), str(tmp_path / "disk"), torch.device("cpu")
        ),
    }
    for way, offloaded in ways.items():
        found = bound(offloaded), text(offloaded), text(offloaded, sampler="confidence")
        torch.testing.assert_close(found[0], expected[0], msg=way)
        for mine, theirs in zip(found[1:], expected[1:], strict=True):
            assert torch.equal(mine, theirs), way


# --- other number formats -------------------------------------------------------------------------------------------


def close_to(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found - expected).abs().max() < 0.1 * expected.abs().max()) and not torch.equal(found, expected)


@pytest.mark.filterwarnings("ignore")
def test_dynamic_int8(model):
    expected = bound(model)
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    assert close_to(bound(quantised), expected)
    written = text(quantised)
    assert written.shape == (2, 14)
    assert not bool((written == MASK).any())
    assert text(quantised, sampler="confidence", block_length=4).shape == (2, 14)


TORCHAO = """
import sys, torch
sys.path[:0] = sys.argv[2:]
torch.set_num_threads(1)
from test_placement import bound, text
from torchao.quantization import Int8WeightOnlyConfig, quantize_
from arche_mdlm import MDLMForMaskedDiffusion
model = MDLMForMaskedDiffusion.from_pretrained(sys.argv[1]).eval()
quantize_(model, Int8WeightOnlyConfig())
assert type(model.lm_head.weight) is not torch.nn.Parameter
torch.save([bound(model), text(model)], sys.argv[1] + "/out")
"""


def test_torchao_weight_only_int8(model, tmp_path):
    """In a separate process: `make venv` installs torchao elsewhere, as it prints at every import of transformers."""
    aside = Path(sys.prefix) / "clients"
    if not (aside / "torchao").is_dir():
        pytest.skip("torchao is not installed: make venv")
    model.save_pretrained(tmp_path)
    arguments = [sys.executable, "-c", TORCHAO, str(tmp_path), str(aside), str(Path(__file__).parent)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found, written = torch.load(tmp_path / "out")
    assert close_to(found, bound(model))
    assert not bool((written == MASK).any())


# --- export ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_export_with_any_batch_and_length(model, attention):
    model.set_attn_implementation(attention)
    told = {"timesteps": torch.rand(2)} if model.config.time_conditioning != "none" else {}
    batch, length = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("length", min=2, max=48)
    shapes = {"input_ids": {0: batch, 1: length}, "attention_mask": {0: batch, 1: length}}
    shapes["timesteps"] = {0: batch} if told else None
    inputs = {"input_ids": torch.randint(3, 40, (2, 10)), "attention_mask": torch.ones(2, 10, dtype=torch.long)}
    inputs["timesteps"] = told.get("timesteps")

    class Logits(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, input_ids, attention_mask, timesteps=None):
            return self.inner(input_ids, attention_mask=attention_mask, timesteps=timesteps).logits

    exported = torch.export.export(Logits(model), (), inputs, dynamic_shapes=shapes, strict=False).module()
    for rows, columns in ((2, 10), (5, 7), (1, 48)):
        ids = torch.randint(3, 40, (rows, columns))
        given = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "timesteps": torch.rand(rows) if told else None,
        }
        torch.testing.assert_close(exported(**given), model(**given).logits, rtol=1e-4, atol=1e-4)


# --- threads and processes ------------------------------------------------------------------------------------------


def test_threads_write_what_one_thread_writes(model):
    def one(seed: int) -> torch.Tensor:
        return text(model, sampler=("ancestral", "confidence")[seed % 2], num_diffusion_steps=4 + seed)

    alone = [one(seed) for seed in range(6)]
    with ThreadPoolExecutor(4) as pool:
        for mine, theirs in zip(pool.map(one, range(6)), alone, strict=True):
            assert torch.equal(mine, theirs)


TENSOR_PARALLEL = """
import os, sys, torch
torch.set_num_threads(1)
sys.path.insert(0, os.environ["HERE"])
from test_placement import bound, text
from arche_mdlm import MDLMForMaskedDiffusion
model = MDLMForMaskedDiffusion.from_pretrained(sys.argv[1], tp_plan="auto").eval()
assert torch.distributed.get_world_size() == 2
q = model.model.layers[0].self_attn.q_proj.weight
q = q.to_local() if hasattr(q, "to_local") else q
assert q.shape[0] == 16, q.shape
ids = torch.arange(4, 14)[None]
logits = model(ids.masked_fill(ids % 2 == 0, 3)).logits
torch.save([logits.detach(), bound(model), text(model, sampler="confidence")], sys.argv[2] + os.environ["RANK"])
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


@pytest.mark.timeout(300)
def test_tensor_parallel_on_two_processes(build_mdlm, tmp_path):
    model = build_mdlm(tie_word_embeddings=False)
    model.save_pretrained(tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = str(Path(__file__).parent)
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "HERE": here,
                                "OMP_NUM_THREADS": "1"}  # fmt: skip
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", TENSOR_PARALLEL, str(tmp_path / "model"), str(tmp_path / "out")],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for worker in workers:
        output, _ = worker.communicate(timeout=240)
        assert worker.returncode == 0, output[-3000:]
    ids = torch.arange(4, 14)[None]
    expected = [model(ids.masked_fill(ids % 2 == 0, MASK)).logits, bound(model), text(model, sampler="confidence")]
    for rank in range(2):
        for mine, theirs in zip(torch.load(f"{tmp_path / 'out'}{rank}"), expected, strict=True):
            torch.testing.assert_close(mine, theirs.detach(), rtol=1e-4, atol=1e-4)
