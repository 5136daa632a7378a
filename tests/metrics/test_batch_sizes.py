"""Batch sizes: the estimate follows the memory, and a batch that is too large is halved without changing a result."""

import sys

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import GPT2Config, GPT2LMHeadModel

from arche_mdlm import MDLMConfig, MDLMModel
from arche_mdlm.metrics import batch_sizes
from arche_mdlm.metrics.batch_sizes import BatchSize, estimate, free_bytes, row_bytes
from arche_mdlm.metrics.corpus_likelihood import corpus_nelbo, corpus_nll
from arche_mdlm.metrics.likelihood import nelbo, nll


@pytest.fixture
def free(monkeypatch):
    """Say how many bytes are free."""
    return lambda number: monkeypatch.setattr(batch_sizes, "free_bytes", lambda device: number)


def limit(model, monkeypatch, most, error=None):
    """Let the model run out of memory above `most` rows; the list of the rows of each forward that fitted."""
    error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    rows, trunk = [], model.base_model
    real = trunk.forward

    def forward(input_ids=None, **kwargs):
        if len(input_ids) > most:
            raise error
        rows.append(len(input_ids))
        return real(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(trunk, "forward", forward)
    return rows


ROWS = torch.randint(4, 40, (10, 12), generator=torch.Generator().manual_seed(0))


def test_the_estimate_follows_the_free_memory(tiny_ar, free):
    need = row_bytes(tiny_ar.config, 32, 4)
    fixed = batch_sizes.LOGIT_COPIES * batch_sizes._CHUNK_BYTES["cpu"]
    for rows in (1, 7, 30):
        free(2 * (fixed + rows * need) + need)  # half of it is to be used
        assert estimate(tiny_ar, 32) == rows
    free(0)
    assert estimate(tiny_ar, 32) == 1
    free(10**12)
    assert estimate(tiny_ar, 32) == 32, "more makes a CPU no faster"


def test_the_estimate_shrinks_with_what_a_row_takes(tiny_ar, free):
    free(2 * batch_sizes.LOGIT_COPIES * batch_sizes._CHUNK_BYTES["cpu"] + 20_000_000)
    sizes = [estimate(tiny_ar, length) for length in (128, 256, 512, 1024)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 7 * sizes[-1] > 0
    assert estimate(tiny_ar, 512, all_logits=True) > estimate(tiny_ar, 512), "no chunk beside them"
    config = tiny_ar.config
    assert row_bytes(config, 64, 4) == 2 * row_bytes(config, 64, 2) - 64 * 256
    assert row_bytes(config, 64, 4, all_logits=True) - row_bytes(config, 64, 4) == 6 * 64 * 40 * 4
    gpt2 = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=40)  # its own names, and no inner width
    assert row_bytes(gpt2, 64, 4) == 64 * ((8 * 32 + 3 * 128) * 4 + 256)


def test_eager_attention_takes_its_scores(tiny_ar):
    before = row_bytes(tiny_ar.config, 64, 4)
    tiny_ar.set_attn_implementation("eager")
    assert row_bytes(tiny_ar.config, 64, 4) - before == 2 * 4 * 64 * 64 * 4


def test_the_free_memory_of_this_machine():
    assert free_bytes(torch.device("cpu")) > 2**20


def test_the_parts_are_halved_and_stay_so():
    seen, sizes = [], BatchSize(6, halves=True)

    def work(part):
        seen.append(len(part))
        if len(part) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
        return sum(part)

    assert list(sizes.run(range(5), work)) == [(range(0, 2), 1), (range(2, 4), 5), (range(4, 5), 4)]
    assert seen == [5, 2, 2, 1]
    assert list(sizes.run(range(3), work)) == [(range(0, 2), 1), (range(2, 3), 2)]


def test_work_without_a_result_is_done_once():
    seen = []
    assert list(BatchSize(2, halves=True).run(range(3), seen.append)) == [(range(2), None), (range(2, 3), None)]
    assert seen == [range(2), range(2, 3)]


def test_what_is_not_halved():
    def out_of_memory(part):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def other(part):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(torch.OutOfMemoryError):
        list(BatchSize(4, halves=False).run(range(8), out_of_memory))
    with pytest.raises(torch.OutOfMemoryError):
        list(BatchSize(4, halves=True).run(range(8), out_of_memory))
    with pytest.raises(RuntimeError, match="shapes"):
        list(BatchSize(4, halves=True).run(range(8), other))


def test_without_accelerate_it_says_what_halving_needs(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "accelerate"] + ["accelerate"]:
        monkeypatch.setitem(sys.modules, name, None)

    def fails(error):
        def work(part):
            raise error

        return list(BatchSize(4, halves=True).run(range(8), work))

    with pytest.raises(ImportError, match=r"memory ran out.*arche-mdlm\[train\]"):
        fails(torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(RuntimeError, match="shapes"):
        fails(RuntimeError("shapes do not fit"))


@pytest.mark.parametrize("wrong", [0, -1, 2.0, True, "large", None])
def test_a_wrong_batch_size_is_named(tiny_ar, wrong):
    with pytest.raises(ValueError, match=f"batch_size={wrong!r} must be at least 1, or 'auto'"):
        BatchSize.of(wrong, tiny_ar, 8)


def test_a_nelbo_out_of_memory_is_halved(build_mdlm, monkeypatch):
    def score():
        return nelbo(build_mdlm(), ROWS, num_samples=4, generator=torch.Generator().manual_seed(1))

    whole, model = score(), build_mdlm()
    rows = limit(model, monkeypatch, 12)
    halved = nelbo(model, ROWS, num_samples=4, generator=torch.Generator().manual_seed(1))

    torch.testing.assert_close(halved, whole, rtol=1e-5, atol=1e-5)
    assert rows == [8] * 5, "32 canvases did not fit, nor did 16"
    with pytest.raises(torch.OutOfMemoryError):
        nelbo(model, ROWS, num_samples=4, batch_size=13)


def test_an_nll_out_of_memory_is_halved(tiny_ar, monkeypatch):
    whole = nll(tiny_ar, ROWS)
    rows = limit(tiny_ar, monkeypatch, 3)

    torch.testing.assert_close(nll(tiny_ar, ROWS), whole, rtol=1e-5, atol=1e-5)
    assert rows[2:] == [2] * 5, "10 and 5 did not fit; the first two are the probe's"


def test_a_corpus_asks_only_once_for_too_much(build_mdlm, tiny_ar, monkeypatch, free):
    stories = ROWS.tolist()
    seeded = {"generator": torch.Generator().manual_seed(1)}
    common = {"pad_token_id": 2}
    expected = [
        corpus_nelbo(build_mdlm(), stories, canvas_length=12, num_samples=2, batch_size=4, **seeded, **common),
        corpus_nll(tiny_ar, stories, batch_size=4, **common),
    ]
    mdlm, failed = build_mdlm(), []
    for model in (mdlm, tiny_ar):
        limit(model, monkeypatch, 3)
    monkeypatch.setattr(batch_sizes, "_free_cache", lambda: failed.append(1))
    seeded["generator"].manual_seed(1)
    found = [
        corpus_nelbo(mdlm, stories, canvas_length=12, num_samples=2, **seeded, **common),
        corpus_nll(tiny_ar, stories, **common),
    ]

    for one, other in zip(found, expected, strict=True):
        assert one.nats == pytest.approx(other.nats, rel=1e-5)
    assert len(failed) == 3 + 2, "20, 10, 5 canvases; 10, 5 rows"


def test_a_model_without_known_activations_has_a_size_of_its_own():
    class Other(torch.nn.Module):
        config, device = object(), torch.device("cpu")

    assert estimate(Other(), 10**6) == 32


def test_a_head_with_a_cap_is_counted_with_all_its_logits(monkeypatch):
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=40, n_positions=16)).eval()
    asked = []
    monkeypatch.setattr(batch_sizes, "estimate", lambda model, length, *rest: asked.append((length, *rest)) or 4)
    nll(model, ROWS)
    for module in ("ar_likelihood", "corpus_likelihood"):
        monkeypatch.setattr(f"arche_mdlm.metrics.{module}.head_is_all", lambda *args: False)
    nll(model, ROWS)
    corpus_nll(model, ROWS.tolist(), pad_token_id=0)
    assert asked == [(12, False), (12, True), (12, True)]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("padding", [0, 5])
def test_a_forward_takes_what_the_formula_says(attention, padding):
    config = MDLMConfig(
        vocab_size=64,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=2,
        mask_token_id=63,
    )
    trunk = MDLMModel(config).eval()
    trunk.set_attn_implementation(attention)
    rows = torch.zeros(8, 128, dtype=torch.long)
    mask = torch.ones_like(rows)
    mask[:, :padding] = 0
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        trunk(rows, attention_mask=mask if padding else None)
    changes = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    sums = torch.tensor([event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())]).cumsum(0)

    assert 1 < row_bytes(trunk.config, 128, 4) / (int(sums.max()) / 8) < 2
