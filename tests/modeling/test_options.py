"""Every option of stock `generate`: it works on a canvas as its documentation says, or it is refused."""

import inspect
import time

import pytest
import torch
from goodness_of_fit import chi_square_p
from seeds import seeded
from transformers import CompileConfig, GenerationConfig, GenerationMixin, TextStreamer
from transformers.generation import logits_process as processors
from transformers.generation import stopping_criteria as criteria

from arche_mdlm import MDLMGenerationConfig
from arche_mdlm.compiling_mdlm import is_compiled
from arche_mdlm.generation_config_mdlm import ARGUMENTS, OWN_FIELDS, WORKING
from arche_mdlm.samplers_mdlm import AncestralSampler

BOS, EOS, PAD, MASK = range(4)
PROMPTS = torch.tensor([[BOS, 5], [BOS, 6]])


def write(model, prompts=PROMPTS, **settings):
    common = {"do_sample": True, "num_diffusion_steps": 6, "max_new_tokens": 12, "generator": seeded()}
    return model.generate(torch.as_tensor(prompts), **common | settings)


# --- every option ---------------------------------------------------------------------------------------------------

# A value of each option that is refused, where 7 would not do.
REFUSED_VALUES = {
    "num_assistant_tokens_schedule": "heuristic", "cache_implementation": "static", "early_stopping": True,
    "sequence_bias": [[[5], -10.0]], "force_words_ids": [[5]], "begin_suppress_tokens": [5], "forced_bos_token_id": 5,
    "output_scores": True, "output_logits": True, "output_attentions": True, "output_hidden_states": True,
    "is_assistant": True, "token_healing": True, "low_memory": True, "dola_layers": "high",
}  # fmt: skip
REFUSED = sorted({name for name in vars(GenerationConfig()) if not name.startswith("_")} - WORKING)


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("place", ["call", "config", "checkpoint"])
def test_an_option_that_does_not_work_is_refused_wherever_it_stands(tiny_mdlm, name, place):
    value = REFUSED_VALUES.get(name, 7)
    settings = {"max_new_tokens": 4}
    if place == "call":
        settings[name] = value
    else:
        config = MDLMGenerationConfig(max_new_tokens=4) if place == "config" else tiny_mdlm.generation_config
        setattr(config, name, value)
        settings |= {"generation_config": config} if place == "config" else {}
    with pytest.raises(ValueError, match=f"{name}=.* is not supported by masked diffusion generation"):
        tiny_mdlm.generate(PROMPTS, **settings)


def test_no_option_is_forgotten():
    """One that works is tested below or in another file, by name."""
    elsewhere = {"guidance_scale", "num_return_sequences", "return_dict_in_generate", "max_length", "max_new_tokens",
                 "eos_token_id", "pad_token_id", "bos_token_id", "do_sample", "transformers_version"}  # fmt: skip
    here = {*LAWS, "temperature", "max_time", "stop_strings", "min_new_tokens", "min_length", "repetition_penalty",
            "compile_config", "disable_compile", "use_cache"}  # fmt: skip
    assert here | elsewhere == WORKING
    assert set(vars(MDLMGenerationConfig())) - set(vars(GenerationConfig())) == set(OWN_FIELDS)


@pytest.mark.parametrize(
    "name",
    sorted(
        set(inspect.signature(GenerationMixin.generate).parameters)
        - {"self", "inputs", "generation_config", "stopping_criteria", "streamer", "kwargs", "negative_prompt_ids"}
        - {"negative_prompt_attention_mask"}
        - ARGUMENTS
    ),
)
def test_arguments_of_stock_generate_that_do_not_work_are_refused(tiny_mdlm, name):
    with pytest.raises(ValueError, match=f"{name}=.* is not supported"):
        write(tiny_mdlm, **{name: True})


@pytest.mark.parametrize("name", ["position_ids", "inputs_embeds", "past_key_values", "labels", "timesteps"])
def test_arguments_of_forward_are_refused(tiny_mdlm, name):
    with pytest.raises(ValueError, match=f"{name}=.* is not supported"):
        write(tiny_mdlm, **{name: torch.ones_like(PROMPTS)})


def test_other_ways_to_decode_are_refused(tiny_mdlm):
    for name in ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager",
                 "compute_transition_scores"):  # fmt: skip
        with pytest.raises(NotImplementedError):
            getattr(tiny_mdlm, name)([[BOS, 5]])


# --- options of the logits ------------------------------------------------------------------------------------------

LAWS = {
    "top_k": (3, processors.TopKLogitsWarper(3)),
    "top_p": (0.6, processors.TopPLogitsWarper(0.6)),
    "min_p": (0.2, processors.MinPLogitsWarper(0.2)),
    "top_h": (0.5, processors.TopHLogitsWarper(0.5)),
    "typical_p": (0.5, processors.TypicalLogitsWarper(0.5)),
    "epsilon_cutoff": (0.05, processors.EpsilonLogitsWarper(0.05)),
    "eta_cutoff": (0.05, processors.EtaLogitsWarper(0.05)),
    "suppress_tokens": ([8, 9], processors.SuppressTokensLogitsProcessor([8, 9])),
    "bad_words_ids": ([[8], [9]], processors.SuppressTokensLogitsProcessor([8, 9])),
    "renormalize_logits": (True, processors.LogitNormalization()),
    "remove_invalid_values": (True, processors.InfNanRemoveLogitsProcessor()),
}


@pytest.mark.parametrize("name", LAWS)
def test_the_law_is_that_of_the_stock_processor(build_mdlm, name):
    model = build_mdlm(initializer_range=0.2)
    value, processor = LAWS[name]
    canvas = torch.tensor([[BOS, 5, MASK, 7]])
    logits = model(canvas, positions=canvas == MASK).logits
    law = processor(canvas, logits.clone()).double().softmax(-1)[0]

    rows = write(model, canvas, max_new_tokens=0, num_return_sequences=4000, top_k=value if name == "top_k" else 0,
                 **{} if name == "top_k" else {name: value})  # fmt: skip

    assert chi_square_p(torch.bincount(rows[:, 2], minlength=40), law) > 1e-3


def test_temperature_zero_takes_the_most_probable_tokens(tiny_mdlm):
    best = write(tiny_mdlm, do_sample=False)
    assert torch.equal(write(tiny_mdlm, temperature=0), best)
    assert torch.equal(write(tiny_mdlm, generation_config=MDLMGenerationConfig(temperature=0.0, do_sample=True)), best)


def test_repetition_penalty_of_prompts_of_unlike_lengths(tiny_mdlm):
    prompts = torch.tensor([[BOS, 5, 6, 7], [PAD, PAD, BOS, 8]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    settings = {"max_new_tokens": 10, "do_sample": False, "sampler": "confidence", "repetition_penalty": 1.7}
    both = write(tiny_mdlm, prompts, attention_mask=mask, **settings)
    for row, given in enumerate(([BOS, 5, 6, 7], [BOS, 8])):
        alone = write(tiny_mdlm, [given], **settings)[0]
        assert torch.equal(both[row, -len(alone) :], alone)
    right = write(
        tiny_mdlm, [[BOS, 5, 6, 7], [BOS, 8, PAD, PAD]], attention_mask=mask.flip(1)[:, [0, 1, 2, 3]], **settings
    )
    assert torch.equal(right[1, 4:], both[1, 4:])


@pytest.mark.parametrize("value", [True, False])
def test_use_cache_changes_nothing(tiny_mdlm, value):
    assert torch.equal(write(tiny_mdlm, use_cache=value), write(tiny_mdlm))


# --- lengths, time and ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["ancestral", "confidence", "remdm", "arche"])
@pytest.mark.parametrize("least", [{"min_new_tokens": 9}, {"min_length": 11}])
def test_no_text_ends_before_the_least_length(tiny_mdlm, sampler, least):
    def often_ends(input_ids, scores):
        return scores + 6.0 * (torch.arange(40) == EOS)

    settings = {"num_return_sequences": 20, "sampler": sampler, "logits_processor": [often_ends]}
    lengths = (write(tiny_mdlm, **settings) > PAD).sum(-1)
    assert int(lengths.min()) < 9
    rows = write(tiny_mdlm, **settings, **least)
    assert not torch.isin(rows[:, 2:11], torch.tensor([EOS, PAD])).any()
    assert bool((rows[:, 11:] == EOS).any())


@pytest.mark.parametrize("cut", [{"top_p": 0.05}, {"top_k": 1}, {"min_p": 0.9}])
def test_the_least_length_goes_before_what_cuts_a_law(tiny_mdlm, cut):
    """Were ends forbidden behind it, nothing would be left where an end is all that it leaves."""

    def ends(input_ids, scores):
        return scores + 90.0 * (torch.arange(40) == EOS)

    rows = write(tiny_mdlm, num_return_sequences=4, logits_processor=[ends], min_new_tokens=9, **cut)
    assert not torch.isin(rows[:, 2:11], torch.tensor([EOS, PAD, MASK])).any()


def test_the_least_length_counts_each_row_s_own_tokens(tiny_mdlm):
    prompts, mask = torch.tensor([[BOS, 5, 6, 7], [PAD, PAD, BOS, 8]]), torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])

    def ends(input_ids, scores):
        return scores + 90.0 * (torch.arange(40) == EOS) + 50.0 * (torch.arange(40) == 9)

    rows = write(tiny_mdlm, prompts, attention_mask=mask, min_length=6, logits_processor=[ends], do_sample=False)
    assert rows[:, 4:9].tolist() == [[9, 9, EOS, PAD, PAD], [9, 9, 9, 9, EOS]]


class Counter(criteria.StoppingCriteria):
    """Counts its calls, and lets a clock go on."""

    def __init__(self, clock: list[float] | None = None):
        self.calls, self.clock = 0, [0.0] if clock is None else clock

    def __call__(self, input_ids, scores, **kwargs):
        self.calls += 1
        self.clock[0] += 1.0
        return torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize("settings", [{}, {"block_length": 4}, {"sampler": "confidence"}, {"sampler": "remdm"},
                                      {"block_length": 4, "prefix_cache": True}])  # fmt: skip
@pytest.mark.parametrize("limit", ["option", "criterion"])
def test_when_the_time_is_over_one_forward_finishes_the_text(tiny_mdlm, monkeypatch, settings, limit):
    clock = [1000.0]  # stands still but where a step goes on
    monkeypatch.setattr(time, "time", lambda: clock[0])
    counter = Counter(clock)
    given = {"max_time": 2.5, "stopping_criteria": counter}
    if limit == "criterion":
        given = {"stopping_criteria": [counter, criteria.MaxTimeCriteria(2.5)]}
    settings = {"suppress_tokens": [EOS, PAD], "num_diffusion_steps": 12, "return_dict_in_generate": True} | settings
    out = write(tiny_mdlm, **settings, **given)
    assert counter.calls == 3
    assert bool((out.sequences > MASK)[:, 1:].all()), "nothing is left open"
    assert int(out.num_forward_passes.max()) <= 4 + (
        settings.get("sampler") == "confidence"
    )  # the length is drawn first


def first_end(text: str, strings: list[str]) -> int | None:
    found = [text.find(string) + len(string) for string in strings if string in text]
    return min(found) if found else None


@pytest.mark.parametrize("settings", [{}, {"sampler": "confidence"}, {"block_length": 4}, {"sampler": "remdm"}])
@pytest.mark.parametrize("how", ["option", "criterion"])
def test_the_text_ends_with_the_first_stop_string(build_mdlm, tokenizer, settings, how):
    model = build_mdlm(vocab_size=len(tokenizer), initializer_range=0.2)
    strings = ["e", "sa"]
    prompts = tokenizer(["The", "A bird"], return_tensors="pt", padding=True, padding_side="left")
    common = {
        "num_return_sequences": 12,
        "max_new_tokens": 20,
        "num_diffusion_steps": 20,
        "suppress_tokens": [EOS, PAD],
    }
    common |= settings | {"do_sample": True, **prompts}
    free = model.generate(generator=seeded(), **common)
    option = {"stop_strings": strings, "tokenizer": tokenizer}
    if how == "criterion":
        option = {"stopping_criteria": criteria.StopStringCriteria(tokenizer, strings)}
    out = model.generate(generator=seeded(), return_dict_in_generate=True, **option, **common)
    width, stopped = prompts["input_ids"].shape[1], 0
    for row, whole in zip(out.sequences, free, strict=True):
        kept = row[width:][row[width:] != PAD]
        texts = [tokenizer.decode(whole[width : width + n]) for n in range(1, 21)]
        expected = next((n for n, text in enumerate(texts, 1) if first_end(text, strings) is not None), 20)
        stopped += expected < 20
        if settings.get("sampler") != "remdm":  # what a row takes back depends on whether its text is over
            assert kept.tolist() == whole[width : width + expected].tolist()
        assert first_end(tokenizer.decode(kept[:-1]), strings) is None, "not before its last token"
    assert stopped > 5
    if settings == {"block_length": 4}:
        assert int(out.num_forward_passes.min()) < 5 <= int(out.num_forward_passes.max()), "later blocks cost nothing"


def test_stop_strings_need_a_tokenizer(tiny_mdlm):
    with pytest.raises(ValueError, match="tokenizer"):
        write(tiny_mdlm, stop_strings=["a"])


@pytest.mark.parametrize("as_list", [False, True])
def test_one_criterion_or_a_list(tiny_mdlm, as_list):
    counter = Counter()
    write(tiny_mdlm, stopping_criteria=[counter] if as_list else counter)
    assert counter.calls > 1
    out = write(tiny_mdlm, stopping_criteria=lambda tokens, scores: True, return_dict_in_generate=True)
    assert out.num_forward_passes.tolist() == [1, 1], "a bool counts for all rows"


@pytest.mark.parametrize("criterion", [criteria.MaxLengthCriteria(5), criteria.EosTokenCriteria(EOS),
                                       criteria.ConfidenceCriteria(0.5)])  # fmt: skip
def test_criteria_that_look_at_the_end_are_refused(tiny_mdlm, criterion):
    with pytest.raises(ValueError, match=type(criterion).__name__):
        write(tiny_mdlm, stopping_criteria=[criterion])


# --- steps that fill nothing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"block_length": 3}, {"num_diffusion_steps": 40, "block_length": 5}])
@pytest.mark.parametrize("seed", range(3))
def test_steps_that_fill_nothing_are_left_out(tiny_mdlm, monkeypatch, settings, seed):
    """The same text, in no more steps than there are positions to fill."""
    settings = {"num_diffusion_steps": 3000, "max_new_tokens": 16, **settings}
    steps, stock = [], AncestralSampler.step
    monkeypatch.setattr(AncestralSampler, "step", lambda self, *a: steps.append(1) or stock(self, *a))
    few = write(tiny_mdlm, generator=seeded(seed), **settings)
    assert len(steps) <= 2 * 16
    monkeypatch.setattr(AncestralSampler, "may_fill", property(lambda self: None))  # as of a sampler that cannot tell
    monkeypatch.undo()
    every = write(tiny_mdlm, generator=seeded(seed), output_history=True, return_dict_in_generate=True, **settings)
    assert len(every.history) > 16
    assert torch.equal(few, every.sequences)


def test_a_streamer_sees_the_same_text(tiny_mdlm, tokenizer, capsys):
    rows = write(tiny_mdlm, PROMPTS[:1], num_diffusion_steps=500, streamer=TextStreamer(tokenizer))
    assert capsys.readouterr().out.strip() == tokenizer.decode(rows[0]).strip()


# --- compiling ------------------------------------------------------------------------------------------------------


def test_compiling_one_call_does_not_change_the_next(tiny_mdlm, monkeypatch):
    import arche_mdlm.compiling_mdlm as compiling

    compiled, stock = [], compiling.compile_layers
    monkeypatch.setattr(compiling, "compile_layers", lambda *a, **k: compiled.append(k) or stock(*a, **k))
    plain = write(tiny_mdlm)
    config = CompileConfig(backend="eager", mode=None)
    for _ in range(2):
        assert torch.equal(write(tiny_mdlm, compile_config=config), plain)
        assert not is_compiled(tiny_mdlm)
    assert len(compiled) == 1, "the second call finds what the first has compiled"
    write(tiny_mdlm, block_length=4, prefix_cache=True)  # refused while layers are compiled
    with pytest.raises(ValueError, match="cannot be used with compiled layers"):
        write(tiny_mdlm, block_length=4, prefix_cache=True, compile_config=config)
    assert not is_compiled(tiny_mdlm)
    write(tiny_mdlm, compile_config=CompileConfig(backend="eager", mode=None), disable_compile=True)
    assert len(compiled) == 1
