"""On a device without float64 (a pretended one: `pretend_device`) everything runs, and gives about what it gives on a CPU."""

import pytest
import torch
from pretend_device import NAME, OnDevice, pretended
from served_models import FAMILIES

from arche_mdlm import available_samplers
from arche_mdlm.configuration import devices
from arche_mdlm.family_mdlm import family_of
from arche_mdlm.metrics.likelihood import nelbo, nll
from arche_mdlm.metrics.policy_likelihood import policy_nll
from arche_mdlm.noise_mdlm import RowNoise

MASK = 3
PROMPT = torch.tensor([[0, 5, 6, MASK, 7], [2, 0, 8, 9, MASK]])
ATTENDED = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])


def texts() -> torch.Tensor:
    return torch.randint(4, 40, (3, 16), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def device():
    with pretended() as found:
        yield found


def test_the_device_is_strict(device):
    """Or the tests below would show nothing."""
    ones = torch.ones(2, device=device)
    assert isinstance(ones, OnDevice)
    assert (ones + 1).device.type == NAME
    assert (ones + 1).tolist() == [2, 2]
    for wide in (lambda: ones.double(), lambda: torch.zeros(2, dtype=torch.float64, device=device),
                 lambda: torch.ones(2, dtype=torch.float64).to(device), lambda: ones.sum(dtype=torch.float64)):  # fmt: skip
        with pytest.raises(TypeError, match="has no float64"):
            wide()
    with pytest.raises(AssertionError, match="mixes the device with the CPU"):
        ones + torch.ones(2)


CASES = [("masked", sampler, {}) for sampler in available_samplers("masked")]
CASES += [(kind, sampler, {}) for kind in ("uniform", "uniform_block") for sampler in available_samplers("uniform")]
CASES += [("block", "ancestral", {"prefix_cache": True, "block_length": 8}), ("block", "confidence", {}), ("eso", "ancestral", {}),
          ("masked", "entropy", {"guidance_scale": 2.0}), ("masked", "ancestral", {"temperature": 0.7, "temperature_end": 0.2, "top_p": 0.9}),
          ("masked", "ancestral", {"do_sample": False})]  # fmt: skip


@pytest.mark.parametrize(("kind", "sampler", "options"), CASES, ids=[f"{k}-{s}-{'-'.join(o)}" for k, s, o in CASES])
def test_generate(build_mdlm, device, kind, sampler, options):
    model = build_mdlm(attn_implementation="eager", **FAMILIES[kind]).to(device)
    assert model.device.type == NAME
    out = model.generate(
        PROMPT.to(device), attention_mask=ATTENDED.to(device), max_new_tokens=16, num_diffusion_steps=6, sampler=sampler,
        generator=torch.Generator().manual_seed(1), return_dict_in_generate=True, **options,
    )  # fmt: skip
    assert out.sequences.device.type == NAME
    ids = out.sequences.cpu()
    assert ids.shape == (2, 21)
    assert not bool((ids == MASK).any())


@pytest.mark.parametrize(("kind", "conditioned"), [*((kind, False) for kind in FAMILIES), ("masked", True)])
def test_the_bound(build_mdlm, kind, conditioned):
    changes = {"time_conditioning": "log_snr"} if conditioned and kind in ("masked", "block") else {}
    model = build_mdlm(attn_implementation="eager", **{**FAMILIES[kind], **changes})
    wanted = nelbo(model, texts(), num_samples=4, generator=torch.Generator().manual_seed(2)).nats
    with pretended() as device:
        found = nelbo(
            model.to(device), texts().to(device), num_samples=4, generator=torch.Generator().manual_seed(2)
        ).nats
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("policy", ["left_to_right", "confidence", "margin", "entropy"])
def test_exact_likelihoods(build_mdlm, policy):
    model = build_mdlm(attn_implementation="eager")
    # Where all is masked, all positions are alike, and rounding decides which comes first: tokens that are given tell them apart.
    given = torch.zeros_like(texts(), dtype=torch.bool)
    given[:, [0, 3, 9]] = True
    wanted = policy_nll(model, texts(), condition_mask=given, policy=policy).nats
    with pretended() as device:
        found = policy_nll(model.to(device), texts().to(device), condition_mask=given.to(device), policy=policy).nats
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_the_likelihood_of_the_other_arm(tiny_ar):
    tiny_ar.set_attn_implementation("eager")
    wanted = nll(tiny_ar, texts())
    with pretended() as device:
        found = nll(tiny_ar.to(device), texts().to(device))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", FAMILIES)
def test_training(build_mdlm, kind):
    """Loss and gradient of a corrupted batch, which is made on the CPU."""
    model = build_mdlm(attn_implementation="eager", tie_word_embeddings=False, **FAMILIES[kind]).train()
    family = family_of(model)
    rows = texts()
    batch = family.corrupt(rows, rows != 0, "nelbo", torch.Generator().manual_seed(3)).inputs()
    if family.corruption.tells_noise:
        batch["objective"] = "nelbo"

    def step(inputs: dict) -> tuple[float, torch.Tensor]:
        loss = model(**inputs).loss
        loss.backward()
        gradient = model.get_input_embeddings().weight.grad
        return float(loss.detach()), gradient.cpu().clone()

    loss, gradient = step(batch)
    model.zero_grad()
    with pretended() as device:
        model.to(device)
        moved = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
        found, own = step(moved)
    assert found == pytest.approx(loss, rel=1e-3)
    torch.testing.assert_close(own, gradient, rtol=1e-2, atol=1e-3)


def test_random_numbers_are_the_same_to_24_bits(device):
    seeds, positions = torch.tensor([1, -7]), torch.arange(1000).expand(2, -1)
    wanted = RowNoise(seeds, positions).uniform(1)
    found = RowNoise(seeds.to(device), positions.to(device)).uniform(1).cpu()
    assert found.dtype == torch.float32
    assert float(found.max()) < 1
    assert float((wanted - found).abs().max()) <= 2**-24


@pytest.mark.parametrize(
    ("there", "wanted"),
    [((), "cpu"), (("mps",), "mps"), (("xpu",), "xpu"), (("xpu", "mps"), "mps"), (("mps", "cuda"), "cuda")],
)
def test_the_default_device(monkeypatch, there, wanted):
    monkeypatch.setattr(devices, "_is_available", lambda name: name in there)
    assert devices.default_device() == wanted
