"""How long texts are: the length drawn first, by enumeration, and what ends a text."""

import pytest
import torch
from exact_model import ExactModel
from goodness_of_fit import chi_square_p
from oracles.tables import TableLanguage

from arche_mdlm.samplers_mdlm import available_samplers, get_sampler

A, B, EOS, PAD, LENGTH = 0, 1, 2, 3, 4
LENGTHS = torch.tensor([0.05, 0.15, 0.3, 0.3, 0.2], dtype=torch.float64)  # of 0 to 3 tokens and an end, or of 4 without


def language(one_token: bool = False) -> TableLanguage:
    """Texts of tokens A and B that depend on each other, an EOS, and pads behind it, which may be EOS tokens themselves."""
    table = torch.zeros([4] * LENGTH, dtype=torch.float64)
    for length, share in enumerate(LENGTHS.tolist()):
        for number in range(2**length):
            text = [number >> i & 1 for i in range(length)]
            weight = share * (0.5 if length == 0 else 0.8 if len(set(text)) == 1 else 0.2)
            rest = [EOS] * (length < LENGTH) + [EOS if one_token else PAD] * (LENGTH - length - 1)
            table[tuple(text + rest)] += weight
    return TableLanguage(table / table.sum())


def model_of(one_token: bool = False) -> tuple[ExactModel, torch.Tensor]:
    own = language(one_token)
    model = ExactModel(own)
    model.generation_config.eos_token_id = EOS
    model.generation_config.pad_token_id = EOS if one_token else PAD
    ends = (own.sequences == EOS).long()
    length = torch.where(ends.any(-1), ends.argmax(-1), LENGTH)
    law = torch.zeros(LENGTH + 1, dtype=torch.float64).index_add(0, length, own.probabilities)
    return model, law


def lengths(sequences: torch.Tensor) -> torch.Tensor:
    """(5,) how many rows have 0 to 4 tokens before their first end."""
    ends = torch.isin(sequences[:, 1:], torch.tensor([EOS, PAD])).long()
    return torch.bincount(torch.where(ends.any(-1), ends.argmax(-1), LENGTH), minlength=LENGTH + 1)


def write(model, rows: int = 3000, **options) -> torch.Tensor:
    settings = {"max_new_tokens": LENGTH, "num_diffusion_steps": 2, "do_sample": True, "sampler": "confidence"}
    return model.generate(model.bos(rows), generator=torch.Generator().manual_seed(0), **settings | options)


@pytest.mark.parametrize("one_token", [False, True], ids=["pads", "eos as pad"])
@pytest.mark.parametrize(
    "options", [{}, {"num_diffusion_steps": 4, "temperature": 0.5}, {"top_p": 0.3}, {"block_length": 2}]
)
def test_lengths_have_the_law_of_the_language(one_token, options):
    """In two steps, at a low temperature, with top-p, which would cut the end token off, in blocks."""
    model, law = model_of(one_token)
    assert chi_square_p(lengths(write(model, **options)), law) > 1e-3
    if not options:
        independent = lengths(write(model, num_diffusion_steps=1, draw_length=False))
        assert chi_square_p(independent, law) < 1e-3, "enough texts to tell another law"


@pytest.mark.parametrize("sampler", sorted(set(available_samplers()) - {"arche"}))
def test_every_sampler_can_draw_the_length_first(sampler):
    model, law = model_of()
    found = write(model, 1500, sampler=sampler, draw_length=True)
    assert chi_square_p(lengths(found), law) > 1e-3
    if get_sampler(sampler).draws_length:
        assert torch.equal(found, write(model, 1500, sampler=sampler))


def test_the_most_probable_text_has_the_median_length():
    model, law = model_of()
    median = int((law.cumsum(0) > 0.5).long().argmax())
    assert lengths(write(model, 2, do_sample=False)).tolist() == [
        2 * (length == median) for length in range(LENGTH + 1)
    ]


def test_ancestral_texts_given_their_length_are_the_language():
    """The length first, then all else exactly: the language itself."""
    model, _ = model_of()
    found = write(model, 4000, sampler="first_hitting", num_diffusion_steps=None, draw_length=True)
    assert chi_square_p(model.counts(found), model.language.probabilities) > 1e-3


def test_a_prompt_and_the_least_length_condition_it():
    model, law = model_of()
    prompt = torch.cat([model.bos(2000), torch.full((2000, 1), A)], dim=1)
    settings = {"num_diffusion_steps": 2, "do_sample": True, "sampler": "confidence", "max_new_tokens": 3}
    found = model.generate(prompt, generator=torch.Generator().manual_seed(1), **settings)
    given = torch.where(torch.arange(LENGTH + 1) > 0, law, 0.0)  # half of the texts of each length begin with A
    assert chi_square_p(lengths(found)[1:], (given / given.sum())[1:]) > 1e-3
    at_least = lengths(write(model, min_new_tokens=3))
    assert at_least[:3].tolist() == [0, 0, 0]


def test_an_end_token_that_is_suppressed_ends_nothing():
    model, _ = model_of()
    assert lengths(write(model, 50, suppress_tokens=[EOS])).tolist() == [0, 0, 0, 0, 50]


def test_a_row_alone_has_the_length_that_it_has_in_a_batch():
    model, _ = model_of()
    seeds = lambda: [torch.Generator().manual_seed(seed) for seed in range(20)]  # noqa: E731
    settings = {"max_new_tokens": LENGTH, "num_diffusion_steps": 2, "do_sample": True, "sampler": "confidence"}
    together = model.generate(model.bos(20), generator=seeds(), **settings)
    for number, one in enumerate(seeds()):
        assert torch.equal(model.generate(model.bos(1), generator=[one], **settings)[0], together[number])


def test_what_has_no_length_is_refused(build_mdlm):
    own = {"max_new_tokens": 8, "draw_length": True}
    block = build_mdlm(diffusion="block", attention_block_length=4)
    with pytest.raises(ValueError, match="draw_length=True needs masked noise on the whole canvas"):
        block.generate(torch.tensor([[0]]), eos_token_id=1, **own)
    model, _ = model_of()
    model.generation_config.eos_token_id = None
    with pytest.raises(ValueError, match="draw_length=True needs eos_token_id"):
        write(model, 1, draw_length=True)
    assert write(model, 1).shape == (1, 1 + LENGTH), "without an end token the default draws none"


# --- what ends a text ---------------------------------------------------------------------------------------------------------


def test_a_text_ends_at_its_first_end_or_pad_and_what_is_behind_is_counted():
    """Two positions at once: independent draws put pads into the text."""
    model, _ = model_of()
    settings = {
        "sampler": "ancestral",
        "num_diffusion_steps": 1,
        "return_dict_in_generate": True,
        "output_history": True,
    }
    output = write(model, 400, **settings)
    canvas, text = output.history[-1][:, 1:], output.sequences[:, 1:]
    inside = 0
    for before, after, behind in zip(canvas.tolist(), text.tolist(), output.tokens_behind_end.tolist(), strict=True):
        end = next((i for i, token in enumerate(before) if token in (EOS, PAD)), LENGTH)
        assert after == before[: end + 1] + [PAD] * (LENGTH - end - 1)
        assert behind == sum(token in (A, B) for token in before[end:])
        inside += behind > 0
    assert 20 < inside < 380


def test_without_a_pad_of_its_own_a_model_s_stand_in_ends_nothing():
    """Token 0 stands in for a pad where there is none; it is a word."""
    model, _ = model_of()
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None
    settings = {
        "sampler": "ancestral",
        "num_diffusion_steps": 1,
        "return_dict_in_generate": True,
        "output_history": True,
    }
    output = write(model, 50, **settings)
    assert torch.equal(output.history[-1], output.sequences)
    assert int(output.tokens_behind_end.sum()) == 0
