"""Settings of `generate`: logits processors, lengths, generation configs, and errors that name what is wrong."""

import pytest
import torch
from generation_prompts import BOS, EOS, MASK, PAD, write
from seeds import generators
from transformers import GenerationConfig

from arche_mdlm import MDLMGenerationConfig, available_samplers
from arche_mdlm.samplers_mdlm import get_sampler


def test_default_lengths_are_clipped_and_explicit_ones_are_not(tiny_mdlm):
    assert write(tiny_mdlm, [[BOS]]).shape == (1, 48)
    tiny_mdlm.generation_config.max_length = 100
    assert write(tiny_mdlm, [[BOS, 5]]).shape == (1, 48)
    tiny_mdlm.generation_config.max_new_tokens = 47
    assert write(tiny_mdlm, [[BOS, 5, 6]]).shape == (1, 48)
    assert write(tiny_mdlm, [[BOS, 5]], max_length=20).shape == (1, 20), "an explicit max_length beats the default"
    assert write(tiny_mdlm, [[BOS, 5]], max_new_tokens=3).shape == (1, 5)
    with pytest.raises(ValueError, match="max_new_tokens=47 does not fit after a prompt of 2 tokens.*48"):
        write(tiny_mdlm, [[BOS, 5]], max_new_tokens=47)


@pytest.mark.parametrize("kind", [GenerationConfig, MDLMGenerationConfig])
def test_a_generation_config_is_taken_and_left_alone(tiny_mdlm, kind):
    config = kind(max_new_tokens=5, do_sample=True, pad_token_id=PAD, eos_token_id=EOS)
    before = config.to_dict()
    rows = tiny_mdlm.generate(torch.tensor([[BOS]]), generation_config=config)
    assert rows.shape == (1, 6)
    assert config.to_dict() == before


@pytest.mark.parametrize("sampler", available_samplers())
@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-6}])
def test_the_narrowest_distribution_is_the_most_probable_token(tiny_mdlm, sampler, settings):
    """In one step: over several, an order by confidence would see ties."""
    common = {"sampler": sampler, "max_new_tokens": 12, "num_diffusion_steps": 1}
    drawn = write(tiny_mdlm, [[BOS, 5]], **common, **settings)
    best = write(tiny_mdlm, [[BOS, 5]], **common, do_sample=False)
    assert torch.equal(drawn, best)


@pytest.mark.parametrize("settings", [{"suppress_tokens": list(range(4, 22))},
                                      {"bad_words_ids": [[i] for i in range(4, 22)]}])  # fmt: skip
def test_forbidden_tokens_are_never_written(tiny_mdlm, settings):
    prompts = [[BOS]] * 8
    assert bool(torch.isin(write(tiny_mdlm, prompts, max_new_tokens=20)[:, 1:], torch.arange(4, 22)).any())
    rows = write(tiny_mdlm, prompts, max_new_tokens=20, **settings)
    assert not torch.isin(rows[:, 1:], torch.arange(4, 22)).any()


def test_repetition_penalty_sees_the_row_s_own_canvas(tiny_mdlm):
    prompts = [[BOS, 5], [BOS, 6]]
    settings = {"max_new_tokens": 10, "do_sample": False, "num_diffusion_steps": 10, "suppress_tokens": [EOS]}
    settings["sampler"] = "confidence"  # one token a step
    free = write(tiny_mdlm, prompts, **settings)
    assert any(len(row.unique()) < 12 for row in free)
    for row in write(tiny_mdlm, prompts, repetition_penalty=1e6, **settings):
        assert len(row.unique()) == 12


def test_a_logits_processor_of_the_caller_is_used(tiny_mdlm):
    def only_nine(input_ids, scores):
        assert input_ids.shape[0] == scores.shape[0]
        return scores.masked_fill(torch.arange(40) != 9, -torch.inf)

    rows = write(tiny_mdlm, [[BOS]] * 2, max_new_tokens=3, logits_processor=[only_nine])
    assert rows.tolist() == [[BOS, 9, 9, 9]] * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_diffusion_steps": 0}, "num_diffusion_steps=0 must be a whole number of at least 1"),
        ({"num_diffusion_steps": "many"}, "num_diffusion_steps='many' must be a whole number of at least 1"),
        ({"num_diffusion_steps": -3}, "num_diffusion_steps=-3 must be a whole number of at least 1"),
        ({"num_diffusion_steps": 2.5}, r"num_diffusion_steps=2\.5 must be a whole number of at least 1"),
        ({"sampler": "ancestrel"}, "sampler='ancestrel' is not one of .*; did you mean 'ancestral'?"),
        ({"max_new_tokens": 47}, "max_new_tokens=47 does not fit after a prompt of 2 tokens: the context is 48"),
        ({"max_new_tokens": -1}, "max_new_tokens=-1 must be a whole number of at least 0"),
        ({"max_new_tokens": 2.5}, r"max_new_tokens=2\.5 must be a whole number of at least 0"),
        ({"max_length": float("nan"), "max_new_tokens": None}, "max_length=nan must be a whole number"),
        ({"max_length": 49, "max_new_tokens": None}, "max_length=49 is more than the model's context of 48"),
        ({"max_length": 2, "max_new_tokens": None}, "max_length=2 leaves no room after a prompt of 2 tokens"),
        ({"temperature": -1}, "temperature=-1 must be a number of at least 1e-06, or 0 for the most probable tokens"),
        ({"temperature": float("nan"), "sampler": "arche"}, "temperature=nan must be a number of at least 1e-06"),
        ({"temperature": 1e-300}, "temperature=1e-300 must be a number of at least 1e-06"),
        ({"temperature": float("inf")}, "temperature=inf must be a number"),
        ({"top_p": 1.5}, r"top_p=1\.5 must be above 0 and at most 1"),
        ({"top_p": 0}, "top_p=0 must be above 0 and at most 1"),
        ({"top_p": -0.1, "do_sample": False}, r"top_p=-0\.1 must be above 0"),
        ({"num_beams": 2}, "num_beams=2 is not supported"),
        ({"guidance_scale": -1.5}, r"guidance_scale=-1\.5 must be at least 0"),
        ({"temperature_end": 0}, "temperature_end=0 must be a number of at least 1e-06"),
        ({"temperature_end": 0.5, "sampler": "arche"}, "sampler=.arche. has its own temperature schedule"),
        ({"output_history": True}, "output_history=True needs return_dict_in_generate=True"),
        ({"threshold": 0.5}, "threshold=0.5 does not work with sampler=.ancestral.: it is an option of threshold"),
        ({"threshold": 1.5, "sampler": "threshold"}, "threshold=1.5 must be a probability"),
        ({"threshold_factor": 0, "sampler": "threshold"}, "threshold_factor=0 must be above 0"),
        ({"entropy_bound": -1, "sampler": "entropy_bound"}, "entropy_bound=-1 must be a number of nats"),
        ({"remasking": "capp", "sampler": "remdm"}, "remasking=.capp. is not one of cap, rescale, conf, loop"),
        ({"remasking_rate": 2, "sampler": "remdm"}, "remasking_rate=2 must be in 0 to 1"),
        ({"min_new_tokens": 47}, "min_new_tokens=47 is more than the 4 new tokens of a row"),
        ({"min_length": 47}, "min_length=47 is more than the 6 tokens of a row"),
        ({"min_new_tokens": -1}, "min_new_tokens=-1 must be a whole number of at least 0"),
        ({"num_return_sequences": 0}, "num_return_sequences=0 must be a whole number of at least 1"),
        ({"num_diffusion_steps": float("inf")}, "num_diffusion_steps=inf must be a whole number"),
        ({"max_time": 0}, "max_time=0 must be a number of seconds above 0"),
        ({"max_time": -1.0}, r"max_time=-1\.0 must be a number of seconds above 0"),
        ({"bad_words_ids": [[5, 6]]}, "bad_words_ids of several tokens"),
        ({"num_difusion_steps": 3}, "num_difusion_steps"),
        ({"generator": [torch.Generator()] * 2}, "a list of 2, but there are 1 rows"),
    ],
)
def test_bad_settings_are_named(tiny_mdlm, settings, message):
    with pytest.raises(ValueError, match=message):
        write(tiny_mdlm, [[BOS, 5]], **{"max_new_tokens": 4, **settings})


def test_a_prompt_longer_than_the_context_is_an_error(tiny_mdlm):
    with pytest.raises(ValueError, match="the longest prompt has 49 tokens, more than the model's context of 48"):
        write(tiny_mdlm, [[BOS] + [5] * 48], max_new_tokens=1)


def test_an_unknown_sampler_lists_those_there_are():
    with pytest.raises(ValueError, match="sampler='zzz' is not one of ancestral, .*arche, .*confidence"):
        get_sampler("zzz")


def test_more_masks_than_the_context_are_refused(tiny_mdlm):
    with pytest.raises(ValueError, match="the longest prompt has 60 tokens, more than the model's context of 48"):
        write(tiny_mdlm, [[MASK] * 60], max_new_tokens=0)


def test_a_checkpoint_s_defaults_may_belong_to_another_sampler(tiny_mdlm):
    tiny_mdlm.generation_config.sampler, tiny_mdlm.generation_config.threshold = "threshold", 0.2
    by_default = write(tiny_mdlm, [[BOS, 5]], max_new_tokens=8, generator=generators(1)[0])
    tiny_mdlm.generation_config.sampler, tiny_mdlm.generation_config.threshold = "ancestral", None
    asked = write(
        tiny_mdlm, [[BOS, 5]], max_new_tokens=8, generator=generators(1)[0], sampler="threshold", threshold=0.2
    )
    assert torch.equal(by_default, asked)
    tiny_mdlm.generation_config.threshold = 0.2
    assert write(tiny_mdlm, [[BOS, 5]], max_new_tokens=8, sampler="remdm").shape == (1, 10)
