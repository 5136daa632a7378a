"""Networks of uniform noise: batches, padding, blocks, the cache, and what is refused."""

import pytest
import torch
from seeds import seeded
from transformers import AutoModelForCausalLM

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
from arche_mdlm.family_mdlm import family_of
from arche_mdlm.metrics.likelihood import nelbo
from arche_mdlm.metrics.policy_likelihood import policy_nll

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


BOS, PAD, MASK = 3, 4, 5


def network(diffusion: str = "uniform", **changes) -> MDLMForMaskedDiffusion:
    torch.manual_seed(0)
    own = {"attention_block_length": 3} if diffusion == "uniform_block" else {}
    config = MDLMConfig(
        vocab_size=6, mask_token_id=MASK, bos_token_id=BOS, pad_token_id=PAD, max_position_embeddings=16, diffusion=diffusion,
        time_conditioning="log_snr", initializer_range=0.6, **SIZES, **own | changes,
    )  # fmt: skip
    return MDLMForMaskedDiffusion(config).eval()


@pytest.mark.parametrize("diffusion", ["uniform", "uniform_block"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("options", [
    {"sampler": "ancestral"}, {"sampler": "psi"}, {"sampler": "gibbs"},
    {"sampler": "ancestral", "greedy_tail": True},
    {"sampler": "psi", "kappa": 0.3, "greedy_tail": True},  # in blocks, one row ends where the other goes on
    {"sampler": "gibbs", "greedy_tail": True},
])  # fmt: skip
def test_a_row_alone_is_what_it_is_in_a_padded_batch(diffusion, side, options):
    model = network(diffusion)
    own = {"max_new_tokens": 6, "num_diffusion_steps": 6, "do_sample": True, **options}
    prompts = [[BOS, 1, 2], [BOS]]
    alone = [
        model.generate(torch.tensor([prompt]), generator=[seeded(i)], **own)[0, len(prompt) :]
        for i, prompt in enumerate(prompts)
    ]
    padded = torch.tensor([[BOS, 1, 2], [PAD, PAD, BOS] if side == "left" else [BOS, PAD, PAD]])
    mask = (padded != PAD).long()
    both = model.generate(padded, attention_mask=mask, generator=[seeded(0), seeded(1)], **own)
    assert torch.equal(both[0, 3:], alone[0])
    assert torch.equal(both[1, 3:], alone[1])
    assert not bool((both == MASK).any())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("diffusion", ["uniform", "uniform_block"])
def test_padding_changes_no_bound(diffusion, side):
    model, rows, pad = network(diffusion), torch.tensor([[BOS, 0, 1, 2, 1], [BOS, 2, 2, 0, 1]]), torch.full((2, 2), PAD)
    parts, masks = [pad, rows], [torch.zeros_like(pad), torch.ones_like(rows)]
    if side == "right":
        parts, masks = parts[::-1], masks[::-1]
    alone = nelbo(model, rows, num_samples=6, generator=seeded())
    padded = nelbo(model, torch.cat(parts, 1), torch.cat(masks, 1), num_samples=6, generator=seeded())
    torch.testing.assert_close(alone.nats, padded.nats, atol=1e-4, rtol=1e-5)


def test_uniform_noise_in_blocks_is_that_of_each_block_given_the_clean_ones_before_it():
    """Against whole-canvas passes over [clean blocks ; noisy block], integrated over t and all noise."""
    model, row = network("uniform_block"), torch.tensor([BOS, 0, 2, 1])  # blocks: BOS 0 2 | 1
    corruption, times = family_of(model).corruption, (torch.arange(400) + 0.5) / 400
    times = times**2
    expected = torch.zeros(400, dtype=torch.float64)
    for block in ([1, 2], [3]):
        for noisy in torch.cartesian_prod(*[torch.arange(5)] * len(block)).view(-1, len(block)):
            canvas = row.expand(400, -1).clone()
            canvas[:, block] = noisy
            told = torch.zeros(400, 4)
            told[:, block] = times[:, None]
            with torch.no_grad():
                logits = model(canvas, timesteps=told).logits[:, block].double()
            chance = torch.where(noisy == row[block], 1 - 0.8 * times[:, None], times[:, None] / 5).prod(-1)
            for i, position in enumerate(block):
                loss = corruption.token_loss(row[position].expand(400), noisy[i].expand(400), times.double())
                expected += chance * loss.plain(logits[:, i])
    bound = float((expected * 2 * times.sqrt()).mean())
    found = nelbo(model, row[None].expand(8, -1), num_samples=1500, generator=seeded(2))
    error = float(found.standard_error.mean()) / 8**0.5
    assert error < 0.1
    assert abs(float(found.nats.mean()) - bound) < 4 * error + 0.01


def test_the_cache_of_clean_blocks_is_exact():
    model = network("uniform_block")
    prompt = torch.tensor([[BOS, 1]] * 3)
    own = {"max_new_tokens": 10, "num_diffusion_steps": 12, "do_sample": True}
    plain = model.generate(prompt, generator=seeded(1), **own)
    assert torch.equal(plain, model.generate(prompt, generator=seeded(1), prefix_cache=True, **own))


def test_the_chunked_loss_is_the_plain_one():
    model = network()
    clean = torch.randint(0, 3, (4, 6), generator=seeded())
    for objective in family_of(model).corruption.objectives:
        batch = family_of(model).corrupt(clean, clean >= 0, objective, seeded(1)).inputs() | {"objective": objective}
        results = []
        for skip in (True, False):
            model.zero_grad()
            loss = model(**batch, skip_logits=skip).loss
            loss.backward()
            results.append(
                (loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
            )
        torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-3, atol=1e-4)


def test_all_that_a_network_is_told_is_the_noise_level():
    """One model serves every schedule: the same levels, the same logits."""
    linear, cosine = network(), network(noise_schedule="cosine")
    canvas, level = torch.tensor([[BOS, 1, 2]]), torch.tensor([[0.0, 0.3, 0.3]])
    told = family_of(cosine).schedule.time_at(level)
    torch.testing.assert_close(linear(canvas, timesteps=level).logits, cosine(canvas, timesteps=told).logits)
    assert not torch.allclose(linear(canvas, timesteps=level).logits, linear(canvas, timesteps=level / 2).logits)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: m.generate(x, sampler="confidence"), "sampler='confidence' is for masked noise; a model of uniform noise takes "
         "ancestral, gibbs, psi"),
        (lambda m, x: m.generate(x, sampler="psi", corrector_steps=2), "corrector_steps=2 does not work with sampler='psi': it is an "
         r"option of gibbs \(uniform noise\)"),
        (lambda m, x: m.generate(x, sampler="psi", kappa=1.5), "kappa=1.5 must be in 0 to 1"),
        (lambda m, x: m.generate(x, guidance_scale=2.0), "guidance_scale=2.0 is for masked noise"),
        (lambda m, x: policy_nll(m, x), "has uniform noise"),
        (lambda m, x: m(x, labels=x), "timesteps=None"),
        (lambda m, x: m(x), "timesteps=None, but this model has time_conditioning='log_snr'"),
        (lambda m, x: m(x, labels=x, timesteps=torch.ones(1), objective="elbo"), "objective='elbo' is not one of nelbo, converted"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_uniform_noise_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(network(), torch.tensor([[BOS, 1, 2]]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time_conditioning": "none"}, "time_conditioning='none' does not work with diffusion='uniform'"),
        ({"denoiser": "half"}, "denoiser='half' is not one of leave_one_out, full"),
        ({"parameterization": "score"}, "parameterization='score' is for masked noise"),
        ({"diffusion": "masked", "denoiser": "full"}, "denoiser='full' is for uniform noise"),
        ({"diffusion": "uniform_block", "attention_block_length": None}, "needs attention_block_length"),
    ],
)
def test_fields_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        MDLMConfig(**{"diffusion": "uniform", "time_conditioning": "log_snr", "vocab_size": 8} | changes)


def test_a_sampler_of_uniform_noise_is_refused_by_a_masked_model():
    torch.manual_seed(0)
    model = MDLMForMaskedDiffusion(MDLMConfig(vocab_size=6, mask_token_id=MASK, bos_token_id=BOS, **SIZES))
    with pytest.raises(
        ValueError, match="sampler='psi' is for uniform noise; a model of masked noise takes ancestral, arche"
    ):
        model.generate(torch.tensor([[BOS]]), sampler="psi")


def test_a_checkpoint_without_the_embedding_of_noise_is_refused(tmp_path):
    model = network()
    model.save_pretrained(tmp_path)
    assert MDLMForMaskedDiffusion.from_pretrained(tmp_path).config.diffusion == "uniform"
    torch.manual_seed(0)
    masked = MDLMForMaskedDiffusion(MDLMConfig(**SIZES, vocab_size=6, mask_token_id=MASK, bos_token_id=BOS))
    masked.save_pretrained(tmp_path / "masked")
    for kind in (MDLMForMaskedDiffusion, AutoModelForCausalLM):
        with pytest.raises(
            ValueError, match="time_conditioning='log_snr' but not its weights, model.time_embedding.inner"
        ):
            kind.from_pretrained(tmp_path / "masked", diffusion="uniform", time_conditioning="log_snr")
