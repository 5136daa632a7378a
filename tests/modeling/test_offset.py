"""`prediction_offset=1`: the output of a position predicts the next one. Everything against the same weights without it, shifted by
hand, and against an AR model under a causal sight."""

import pytest
import torch
from torch.nn import functional as F
from transformers import CompileConfig, LlamaConfig, LlamaForCausalLM

from arche_mdlm import MDLMConfig
from arche_mdlm.block_cache_mdlm import BlockCache
from arche_mdlm.canvas_mdlm import Canvas
from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.family_mdlm import family_of
from arche_mdlm.metrics.likelihood import nelbo
from arche_mdlm.metrics.policy_likelihood import POLICIES, policy_nll
from arche_mdlm.offset_mdlm import check_predictable, outputs_for, previous
from arche_mdlm.samplers_mdlm import available_samplers
from arche_mdlm.sight_mdlm import Sight
from arche_mdlm.training.batches.batching import document_positions, label_positions

BOS, EOS, PAD, MASK = range(4)


@pytest.fixture
def pair(build_mdlm):
    """(a model that reads from the position before, the same weights read in place)."""

    def build(**changes):
        return build_mdlm(prediction_offset=1, **changes), build_mdlm(**changes)

    return build


def texts(rows=3, length=12) -> torch.Tensor:
    ids = torch.randint(4, 40, (rows, length))
    ids[:, 0] = BOS
    return ids


def canvas_of(ids, share=0.5) -> torch.Tensor:
    masked = torch.rand(ids.shape) < share
    masked[:, 0], masked[:, -1] = False, True
    return ids.masked_fill(masked, MASK)


def padded(ids: torch.Tensor) -> torch.Tensor:
    """An attention mask: a row as it is, one padded on the left, one on the right, one in the middle, as in a canvas."""
    attended = torch.ones_like(ids)
    attended[1, :3], attended[2, -2:], attended[3, 5:7] = 0, 0, 0
    return attended


def shifted(logits: torch.Tensor, attended: torch.Tensor | None = None) -> torch.Tensor:
    """By hand: at each position the logits of the last attended one before it; NaN where there is none."""
    found = torch.full_like(logits, torch.nan)
    for row in range(len(logits)):
        last = None
        for column in range(logits.shape[1]):
            if attended is not None and not attended[row, column]:
                continue
            if last is not None:
                found[row, column] = logits[row, last]
            last = column
    return found


# --- the map ----------------------------------------------------------------------------------------------------------


def test_the_position_before_passes_over_padding():
    attended = torch.tensor([[0, 0, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1]])
    assert previous(attended).tolist() == [[-1, -1, -1, 2, 3, 3], [-1, 0, 1, 2, 3, 4]]
    wanted = torch.tensor([[0, 0, 0, 1, 0, 1], [0, 1, 0, 0, 0, 1]]).bool()
    expected = torch.tensor([[0, 0, 1, 1, 0, 0], [1, 0, 0, 0, 1, 0]]).bool()
    assert torch.equal(outputs_for(wanted, attended, 1), expected)
    flat = wanted.flatten().nonzero()[:, 0]
    for order in (slice(None), [3, 0, 2, 1]):
        assert outputs_for(flat[order], attended, 1).tolist() == expected.flatten().nonzero()[:, 0][order].tolist()
    assert torch.equal(outputs_for(wanted[1:], None, 1), expected[1:])
    assert outputs_for(wanted, attended, 0) is wanted


# --- forward ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("pads", [False, True])
@torch.no_grad()
def test_logits_are_those_of_the_position_before(pair, attention, pads):
    model, plain = pair()
    for each in (model, plain):
        each.set_attn_implementation(attention)
    ids = canvas_of(texts(4))
    attended = padded(ids) if pads else None
    expected = shifted(plain(ids, attention_mask=attended).logits, attended)
    everywhere = model(ids, attention_mask=attended).logits
    wanted = (ids == MASK) & (attended is None or attended.bool())
    if attended is not None:
        wanted &= previous(attended) >= 0
    assert bool(wanted.any())
    torch.testing.assert_close(everywhere[wanted], expected[wanted], atol=1e-6, rtol=1e-6)
    for positions in (wanted, wanted.flatten().nonzero()[:, 0]):
        found = model(ids, attention_mask=attended, positions=positions).logits
        torch.testing.assert_close(found, expected[wanted], atol=1e-5, rtol=1e-5)
    backwards = wanted.flatten().nonzero()[:, 0].flip(0)
    found = model(ids, attention_mask=attended, positions=backwards).logits
    torch.testing.assert_close(found, expected[wanted].flip(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", ["all logits", "chunked", "positions", "indices"])
def test_the_loss_is_that_of_shifted_logits(pair, way):
    model, plain = pair()
    clean = texts(4)
    ids = canvas_of(clean)
    labels = clean.masked_fill(ids != MASK, -100)
    labelled, times = labels != -100, torch.tensor([0.2, 0.5, 0.7, 1.0])
    logits = shifted(plain(ids).logits)[labelled]
    nll = F.cross_entropy(logits, labels[labelled], reduction="none")
    loss = (nll / times[labelled.nonzero()[:, 0]]).sum() / ids.numel()
    options = {
        "all logits": {"skip_logits": False},
        "chunked": {"skip_logits": True},
        "positions": {"skip_logits": True, "positions": labelled},
        "indices": {"skip_logits": True, "positions": label_positions(labelled)},
    }[way]
    output = model(ids, labels=labels, timesteps=times, **options)
    torch.testing.assert_close(output.loss, loss)
    torch.testing.assert_close(output.token_nll[: len(nll)], nll, atol=2e-6, rtol=1e-5)
    names = ["model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight"]
    found, expected = (
        torch.autograd.grad(value, [dict(each.named_parameters())[name] for name in names])
        for value, each in ((output.loss, model), (loss, plain))
    )
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_a_packed_document_s_first_prediction_comes_from_its_own_bos(pair):
    model, plain = pair()
    documents = torch.tensor([[0] * 5 + [1] * 4 + [2] * 3])
    positions, clean = document_positions(documents), texts(1)
    clean[positions == 0] = BOS
    ids = clean.masked_fill(positions > 0, MASK)
    together = model(ids, position_ids=positions, labels=clean.masked_fill(positions == 0, -100), skip_logits=True)
    apart = [plain(ids[:, documents[0] == number]).logits[0, :-1] for number in range(3)]
    expected = F.cross_entropy(torch.cat(apart), clean[positions > 0], reduction="none")
    torch.testing.assert_close(together.token_nll, expected, atol=1e-5, rtol=1e-5)
    ids[0, 5] = MASK
    with pytest.raises(
        ValueError, match="position 5 of row 0 cannot be predicted: it is padding or has no token before"
    ):
        model(ids, position_ids=positions, labels=clean.masked_fill(ids != MASK, -100))


# --- an AR model ------------------------------------------------------------------------------------------------------


@pytest.fixture
def llama(tiny_config):
    """(an AR model, its weights as a diffusion model that reads from the position before), both in double precision."""
    torch.manual_seed(5)
    source = LlamaForCausalLM(LlamaConfig(**tiny_config)).double().eval()

    def converted(build):
        model = build(prediction_offset=1).double()
        model.load_state_dict(source.state_dict())
        return source, model

    return converted


def causal(rows: int, length: int) -> Sight:
    index = torch.arange(length).expand(rows, -1)
    return Sight(torch.zeros_like(index), index.clone(), index.clone(), index.clone())


@torch.no_grad()
def test_under_a_causal_sight_with_nothing_masked_it_is_the_ar_model_token_by_token(llama, build_mdlm):
    source, model = llama(build_mdlm)
    ids = texts()
    known = [token for token in range(40) if token != MASK]
    logits = source(ids).logits
    logits[..., MASK] = -torch.inf
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    found = model(ids, sight=causal(*ids.shape)).logits
    torch.testing.assert_close(found[:, 1:][..., known], logits[:, :-1][..., known], atol=1e-10, rtol=1e-10)
    nll = F.cross_entropy(found[:, 1:].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    torch.testing.assert_close(nll, expected, atol=1e-12, rtol=1e-12)


@torch.no_grad()
def test_on_a_canvas_written_from_left_to_right_it_is_the_ar_model(llama, build_mdlm):
    source, model = llama(build_mdlm)
    ids = texts()
    for given in range(1, ids.shape[1]):
        canvas = ids.clone()
        canvas[:, given:] = MASK
        where = torch.zeros_like(ids, dtype=torch.bool)
        where[:, given] = True
        found = model(canvas, sight=causal(*ids.shape), positions=where).logits
        expected = source(ids[:, :given]).logits[:, -1]
        expected[:, MASK] = -torch.inf
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


# --- likelihoods ------------------------------------------------------------------------------------------------------


class Shifted(torch.nn.Module):
    """A model that reads in place, with its states moved by hand: a reference without `prediction_offset`."""

    def __init__(self, plain):
        super().__init__()
        self.plain, self.config = plain, plain.config

    def __call__(self, input_ids, attention_mask=None, positions=None, **inputs):
        logits = shifted(self.plain(input_ids, attention_mask=attention_mask, **inputs).logits, attention_mask)
        return type("Output", (), {"logits": logits if positions is None else logits[positions]})()


@pytest.mark.parametrize(
    "changes", [{}, {"diffusion": "uniform", "time_conditioning": "log_snr"}], ids=["masked", "uniform"]
)
def test_the_bound_is_that_of_shifted_logits(pair, changes, monkeypatch):
    model, plain = pair(**changes)
    ids = texts(4)
    attended = torch.ones_like(ids)
    attended[1, :3] = attended[2, -4:] = 0
    ids[1, 3] = BOS
    monkeypatch.setattr("arche_mdlm.metrics.likelihood.gives_token_nll", lambda model: not isinstance(model, Shifted))
    reference = Shifted(plain)
    found, expected = (
        nelbo(each, ids, attended, num_samples=8, generator=torch.Generator().manual_seed(0), batch_size=16)
        for each in (model, reference)
    )
    torch.testing.assert_close(found.nats, expected.nats, atol=1e-3, rtol=1e-5)
    other = nelbo(plain, ids, attended, num_samples=8, generator=torch.Generator().manual_seed(0))
    assert bool(((found.nats - other.nats).abs() > 0.1).all())


@pytest.mark.parametrize("policy", POLICIES)
@torch.no_grad()
def test_the_likelihood_of_a_policy_is_that_of_shifted_logits(pair, policy):
    model, plain = pair()
    ids = texts(2, 7)
    result = policy_nll(model, ids, policy=policy)
    for row in range(2):
        for step in range(6):
            masked = result.order[row] >= step
            logits = shifted(plain(ids[row].masked_fill(masked, MASK)[None]).logits)[0]
            place = int((result.order[row] == step).nonzero())
            nats = F.cross_entropy(logits[place][None], ids[row, place][None])
            assert abs(float(nats) - float(result.token_nats[row, place])) < 1e-4
            probability = logits.softmax(-1).masked_fill(~masked[:, None], 0.0).nan_to_num(0.0)
            if policy == "left_to_right":
                assert place == step + 1
            elif policy == "confidence":
                assert place == int(probability.amax(-1).argmax())


# --- generation -------------------------------------------------------------------------------------------------------

UNIFORM = {"diffusion": "uniform", "time_conditioning": "log_snr"}
SAMPLERS = [("masked", name) for name in available_samplers()] + [("uniform", name) for name in available_samplers("uniform")]  # fmt: skip


def by_hand(plain, monkeypatch):
    """The model read in place, whose trunk's states are moved by hand: it has the positions run whole and takes them afterwards."""
    trunk = plain.model.forward

    def forward(positions=None, attention_mask=None, **inputs):
        output = trunk(attention_mask=attention_mask, **inputs)
        states = shifted(output.last_hidden_state, attention_mask)
        if positions is not None:
            states = states[positions] if positions.dtype == torch.bool else states.flatten(0, 1)[positions]
        output.last_hidden_state = states
        return output

    monkeypatch.setattr(plain.model, "forward", forward)
    return plain


PROMPTS = torch.tensor([[PAD, PAD, BOS, 9, MASK, 7], [BOS, 5, 6, 8, 20, 11], [BOS, 5, PAD, PAD, PAD, PAD]])
ATTENDED = (torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]]))  # fmt: skip


def write(model, seed=0, prompts=PROMPTS, **options):
    options = {"max_new_tokens": 6, "do_sample": True, "num_diffusion_steps": 4} | options
    generator = torch.Generator().manual_seed(seed)
    return model.generate(prompts, attention_mask=ATTENDED, generator=generator, **options)


@pytest.mark.parametrize(("noise", "sampler"), SAMPLERS)
def test_every_sampler_writes_what_shifted_states_write(pair, monkeypatch, noise, sampler):
    model, plain = pair(**UNIFORM if noise == "uniform" else {})
    options = {"sampler": sampler} | ({"threshold": 0.3} if sampler == "threshold" else {})
    if sampler == "entropy_bound":
        options["entropy_bound"] = 1.0
    found = write(model, **options)
    unshifted = write(plain, **options)
    assert torch.equal(found, write(by_hand(plain, monkeypatch), **options))
    assert not torch.equal(found, unshifted)


@pytest.mark.parametrize(
    "options",
    [
        {"block_length": 2},
        {"guidance_scale": 1.7},
        {"guidance_scale": 1.7, "negative_prompt_ids": torch.tensor([[PAD, BOS, 30], [BOS, 31, 32], [PAD, PAD, BOS]]),
         "negative_prompt_attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 1]])},
        {"temperature": 0.0},
    ],
    ids=["blocks", "guidance", "negative prompt", "greedy"],
)  # fmt: skip
def test_options_go_with_it(pair, monkeypatch, options):
    model, plain = pair()
    if "negative_prompt_ids" in options:  # which cannot stand in for a prompt with masks
        options = options | {"prompts": PROMPTS.masked_fill(PROMPTS == MASK, 12)}
    assert torch.equal(write(model, **options), write(by_hand(plain, monkeypatch), **options))


def test_compiled_layers_write_the_same(pair):
    model, _ = pair()
    torch._dynamo.reset()
    compiled = write(model, compile_config=CompileConfig(backend="eager", fullgraph=False, mode=None))
    assert torch.equal(compiled, write(model))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_cache_of_blocks_is_exact_where_it_is_without_the_offset(pair, attention):
    model, _ = pair(attention_block_length=2)
    model.set_attn_implementation(attention)
    options = {"block_length": 2, "num_diffusion_steps": 12}
    for seed in range(4):
        assert torch.equal(write(model, seed, **options), write(model, seed, **options, prefix_cache=True))


def test_the_approximate_cache_reads_from_the_position_before(pair, monkeypatch):
    """After the first forward of a block only its positions run, and those before them."""
    model, _ = pair()
    seen = []
    trunk = model.model.forward

    def forward(**inputs):
        seen.append(inputs["input_ids"].shape[1])
        return trunk(**inputs)

    monkeypatch.setattr(model.model, "forward", forward)
    text = write(model, block_length=2, num_diffusion_steps=8, prefix_cache=True)
    assert not bool((text == MASK).any())
    assert {3, 4} & set(seen), "two positions and those before them"
    assert max(seen) == 12


def test_right_after_it_is_filled_the_cache_gives_the_states_of_the_whole_canvas(pair):
    model, _ = pair()
    config = model.generation_config.__class__(block_length=3, eos_token_id=EOS, pad_token_id=PAD)
    canvas = Canvas.build(model.config, config, PROMPTS, ATTENDED, ("new", 6, False))
    cache, rows = BlockCache(model, canvas), torch.arange(3)
    block = torch.zeros(3, dtype=torch.long)
    where = canvas.masked & (canvas.block == 0)
    with torch.no_grad():
        whole, window = cache.states(rows, block, where, {}), cache.states(rows, block, where, {})
    torch.testing.assert_close(window, whole, atol=1e-5, rtol=1e-5)


# --- what is refused, and what stays ----------------------------------------------------------------------------------


def test_what_has_no_token_before_it_is_refused(pair):
    model, _ = pair()
    ids = texts(2, 6)
    first = ids.clone()
    first[1, 0] = MASK
    message = "position 0 of row 1 cannot be predicted: it is padding or has no token before it: .*prediction_offset=1"
    labels = ids.masked_fill(first != MASK, -100)
    attended = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
    for call in (
        lambda: model(first, labels=labels, skip_logits=True),
        lambda: model(first, labels=labels, skip_logits=False),
        lambda: model(first, positions=first == MASK),
        lambda: model.generate(first, max_new_tokens=2),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    without_bos = torch.randint(4, 40, (2, 6))
    for score in (nelbo, policy_nll):
        with pytest.raises(ValueError, match="position 0 of row 0 cannot be predicted"):
            score(model, without_bos)
        with pytest.raises(ValueError, match="position 2 of row 1 cannot be predicted"):
            score(model, texts(2, 6), attended)
    check_predictable(MDLMConfig(vocab_size=40, mask_token_id=3), torch.ones(1, 3, dtype=torch.bool))
    padded_first = texts(2, 6)
    padded_first[1, 2] = MASK
    with pytest.raises(ValueError, match="position 2 of row 1"):
        model.generate(padded_first, attention_mask=attended, max_new_tokens=2)
    with pytest.raises(ValueError, match="position 3 of row 0"):  # an empty negative prompt: nothing to read from
        model.generate(texts(1, 3), max_new_tokens=2, guidance_scale=2.0, negative_prompt_ids=torch.tensor([[PAD] * 3]),
                       negative_prompt_attention_mask=torch.zeros(1, 3, dtype=torch.long))  # fmt: skip


def test_what_it_does_not_go_with_is_refused():
    sizes = {"vocab_size": 40, "mask_token_id": 3}
    with pytest.raises(ValueError, match="prediction_offset=2 must be 0 or 1"):
        MDLMConfig(prediction_offset=2, **sizes)
    for diffusion, more in (("block", {}), ("uniform_block", {"time_conditioning": "log_snr"})):
        with pytest.raises(ValueError, match=f"prediction_offset=1 does not work with diffusion='{diffusion}'"):
            MDLMConfig(prediction_offset=1, diffusion=diffusion, attention_block_length=4, **more, **sizes)
    assert family_of(MDLMConfig(prediction_offset=1, **sizes)).corruption.name == "masked"
    changes = {"model.config.prediction_offset": 1, "data.layout": "windows"}
    with pytest.raises(ValueError, match="data.layout='windows' does not work with model.config.prediction_offset=1"):
        load_preset("mini-mdlm", changes)
    assert load_preset("mini-mdlm", changes | {"data.layout": "packed"}).data.layout == "packed"


def test_a_config_of_before_reads_in_place(build_mdlm):
    model = build_mdlm()
    stored = model.config.to_dict()
    del stored["prediction_offset"]
    assert MDLMConfig(**stored).prediction_offset == 0
