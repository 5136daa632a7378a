"""Guidance against an unconditional or negative prompt: its law, its cost, its independence of the batch."""

import pytest
import torch
from exact_model import ExactModel
from goodness_of_fit import chi_square_p
from oracles.tables import TableLanguage
from seeds import generators

from arche_mdlm import available_samplers

BOS, EOS, PAD, MASK = range(4)
ENOUGH = 1e-3


@pytest.fixture
def exact():
    return ExactModel(TableLanguage.random(4, 2, seed=3, sharpness=1.0))


def second_token(model, first: int, rows: int = 8000, **settings):
    prompts = torch.cat([model.bos(rows), torch.full((rows, 1), first)], dim=1)
    output = model.generate(prompts, max_new_tokens=1, num_diffusion_steps=1, do_sample=True, generator=generators(1)[0],
                            return_dict_in_generate=True, **settings)  # fmt: skip
    return torch.bincount(output.sequences[:, 2], minlength=4), output.num_forward_passes


@pytest.mark.parametrize("sampler", ["ancestral", "confidence"])
@pytest.mark.parametrize("scale", [0.0, 2.5])
def test_the_unconditional_canvas_has_the_prompt_masked(exact, sampler, scale):
    """p(second) (p(second | first) / p(second))^scale, normalised."""
    joint = exact.language.table
    marginal, conditional = joint.sum(0), joint[1] / joint[1].sum()
    law = marginal * (conditional / marginal) ** scale

    counts, forwards = second_token(exact, 1, sampler=sampler, guidance_scale=scale)

    assert chi_square_p(counts, law / law.sum()) > ENOUGH
    assert chi_square_p(counts, conditional) < 1e-6
    assert forwards.unique().tolist() == [2]


def test_a_negative_prompt_stands_in_for_the_prompt(exact):
    joint = exact.language.table
    conditional = joint / joint.sum(1, keepdim=True)
    law = conditional[2] * (conditional[1] / conditional[2]) ** 1.8
    negative = torch.tensor([[exact.config.bos_token_id, 2]])

    counts, _ = second_token(exact, 1, guidance_scale=1.8, negative_prompt_ids=negative)

    assert chi_square_p(counts, law / law.sum()) > ENOUGH


def test_a_scale_of_one_changes_and_costs_nothing(exact):
    counts, forwards = second_token(exact, 1, guidance_scale=1.0)
    assert torch.equal(counts, second_token(exact, 1)[0])
    assert forwards.unique().tolist() == [1]


def test_the_scale_of_a_generation_config_counts(tiny_mdlm):
    prompt = torch.tensor([[BOS, 5, 6]])
    settings = {"max_new_tokens": 12, "do_sample": False, "num_diffusion_steps": 4}
    guided = tiny_mdlm.generate(prompt, guidance_scale=3.0, **settings)
    assert not torch.equal(guided, tiny_mdlm.generate(prompt, **settings))
    tiny_mdlm.generation_config.guidance_scale = 3.0
    assert torch.equal(tiny_mdlm.generate(prompt, **settings), guided)
    config = type(tiny_mdlm.generation_config)(**settings, guidance_scale=3.0)
    assert torch.equal(tiny_mdlm.generate(prompt, generation_config=config), guided)


@pytest.mark.parametrize("sampler", available_samplers())
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_guided_row_does_not_depend_on_its_batch_or_padding(tiny_mdlm, sampler, side):
    prompts, negatives = [[BOS, 5, 6], [BOS, 7]], [[BOS, 8], [BOS, 9, 10, 11]]
    settings = {"max_new_tokens": 10, "num_diffusion_steps": 4, "do_sample": True, "sampler": sampler,
                "guidance_scale": 2.0}  # fmt: skip
    alone = [tiny_mdlm.generate(torch.tensor([p]), negative_prompt_ids=torch.tensor([n]), generator=generators(i), **settings)
             for i, (p, n) in enumerate(zip(prompts, negatives, strict=True))]  # fmt: skip

    def batch(rows):
        width = max(map(len, rows))
        pads = [[PAD] * (width - len(row)) for row in rows]
        ids = [pad + row if side == "left" else row + pad for pad, row in zip(pads, rows, strict=True)]
        return torch.tensor(ids), (torch.tensor(ids) != PAD).long()

    ids, mask = batch(prompts)
    negative, negative_mask = batch(negatives)
    together = tiny_mdlm.generate(ids, attention_mask=mask, negative_prompt_ids=negative,
                                  negative_prompt_attention_mask=negative_mask, generator=generators(0, 1), **settings)  # fmt: skip
    for i, row in enumerate(alone):
        assert together[i, 3:].tolist() == row[0, len(prompts[i]) :].tolist()


def test_infilling_is_guided_too(tiny_mdlm):
    prompt = torch.tensor([[BOS, 5, MASK, MASK, 6, 7]])
    settings = {"max_new_tokens": 0, "do_sample": False}
    rows = [tiny_mdlm.generate(prompt, **settings, guidance_scale=scale)[0] for scale in (1.0, 8.0)]
    assert all(row[[0, 1, 4, 5]].tolist() == [BOS, 5, 6, 7] for row in rows)
    assert not torch.equal(*rows)


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ([[BOS, 5]], {"guidance_scale": -2}, "guidance_scale=-2 must be at least 0"),
        ([[BOS, 5]], {"negative_prompt_ids": [[BOS, 5]]}, "negative_prompt_ids need guidance_scale"),
        ([[BOS, 5, MASK]], {"guidance_scale": 2, "negative_prompt_ids": [[BOS]]}, "a prompt that contains masks"),
        ([[BOS]] * 3, {"guidance_scale": 2, "negative_prompt_ids": [[BOS]] * 2}, "2 rows, which does not divide the 3"),
        ([[BOS]], {"guidance_scale": 2, "negative_prompt_ids": [[BOS] * 47]}, "of 47 tokens and 4 new ones do not fit"),
    ],
)
def test_bad_guidance_is_named(tiny_mdlm, prompt, settings, message):
    if "negative_prompt_ids" in settings:
        settings = settings | {"negative_prompt_ids": torch.tensor(settings["negative_prompt_ids"])}
    with pytest.raises(ValueError, match=message):
        tiny_mdlm.generate(torch.tensor(prompt), max_new_tokens=4, **settings)
