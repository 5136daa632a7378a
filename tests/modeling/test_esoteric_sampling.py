"""Text of an Eso-LM: its law by enumeration, its reductions, its cache, and rows that do not depend on their batch."""

import itertools

import pytest
import torch
from esoteric_model import BOS, MASK, PAD, build, in_order, table_model
from goodness_of_fit import chi_square_p
from oracles.tables import TableLanguage

from arche_mdlm.block_cache_mdlm import RankCache
from arche_mdlm.samplers_mdlm import available_samplers

OWN = {"do_sample": True, "suppress_tokens": [BOS, PAD]}  # tokens 0 to 2 are written


class Language:
    """Laws of a model's next tokens, each asked for once."""

    def __init__(self, model):
        self.model, self.known = model, {}

    @torch.no_grad()
    def laws(self, places: tuple[int, ...], tokens: tuple[int, ...], new: tuple[int, ...]) -> list[list[float]]:
        """Of tokens 0 to 2 at the places `new`, after those that were written in this order."""
        key = places, tokens, new
        if key not in self.known:
            ids = torch.tensor([[*tokens, *[MASK] * len(new)]])
            found = in_order(self.model, ids, torch.tensor([[*places, *new]]))[0, -len(new) :, :3]
            self.known[key] = found.double().softmax(-1).tolist()
        return self.known[key]


class Table(Language):
    """The same of a table, which reads a row from left to right."""

    @torch.no_grad()
    def laws(self, places, tokens, new):
        canvas = torch.full((1, 4), MASK)
        canvas[0, list(places)] = torch.tensor(tokens)
        key = tuple(canvas[0].tolist())
        if key not in self.known:
            self.known[key] = self.model(canvas).logits[0, :, :3].double().softmax(-1).tolist()
        return [self.known[key][place] for place in new]


def law_of_text(language: Language, length: int, steps: int) -> list[float]:
    """The probabilities of all texts (first token slowest): over subsets that are written in each step, then from left to right."""
    share, states = language.model.config.alpha_0, {((0,), (BOS,)): 1.0}

    def masked(t: float) -> float:
        return 1 - share * (1 - t)

    def written(states, choose):
        found = {}
        for (places, tokens), weight in states.items():
            open_ones = [place for place in range(1, length + 1) if place not in places]
            for new, part in choose(open_ones):
                laws = language.laws(places, tokens, new) if new else []
                for more in itertools.product(range(3), repeat=len(new)):
                    p = weight * part
                    for law, token in zip(laws, more, strict=True):
                        p *= law[token]
                    key = places + new, tokens + more
                    found[key] = found.get(key, 0.0) + p
        return found

    for step in range(steps):
        fill = 1 - masked(1 - (step + 1) / steps) / masked(1 - step / steps)
        states = written(states, lambda open_ones, fill=fill: [
            (new, fill**k * (1 - fill) ** (len(open_ones) - k))
            for k in range(len(open_ones) + 1) for new in itertools.combinations(open_ones, k)
        ])  # fmt: skip
    for _ in range(length):
        states = written(states, lambda open_ones: [(tuple(open_ones[:1]), 1.0)])
    total = dict.fromkeys(itertools.product(range(3), repeat=length), 0.0)
    for (places, tokens), weight in states.items():
        in_place = dict(zip(places, tokens, strict=True))
        total[tuple(in_place[place] for place in range(1, length + 1))] += weight
    return list(total.values())


def counts(sequences: torch.Tensor) -> torch.Tensor:
    length = sequences.shape[1] - 1
    powers = 3 ** torch.arange(length - 1, -1, -1)
    return torch.bincount((sequences[:, 1:] * powers).sum(-1), minlength=3**length)


def write(model, rows: int, length: int, steps: int, seed: int = 0, **more) -> torch.Tensor:
    prompt, noise = torch.full((rows, 1), BOS), torch.Generator().manual_seed(seed)
    given = {"max_new_tokens": length, "num_diffusion_steps": steps, "generator": noise}
    return model.generate(prompt, **OWN | given | more)


@pytest.mark.parametrize(("alpha_0", "steps"), [(0.0, 2), (0.5, 1), (0.5, 2), (1.0, 2)])
def test_text_has_the_law_of_its_steps(alpha_0, steps):
    model = build(alpha_0)
    expected = law_of_text(Language(model), 2, steps)
    assert sum(expected) == pytest.approx(1)
    assert chi_square_p(counts(write(model, 1500, 2, steps)), torch.tensor(expected)) > 1e-3
    # Enough to tell it from another one.
    other = law_of_text(Language(build(1 - alpha_0 if alpha_0 != 0.5 else 0.0)), 2, steps)
    assert chi_square_p(counts(write(model, 1500, 2, steps)), torch.tensor(other)) < 1e-3


def test_text_of_a_table_has_the_law_of_its_steps():
    model = table_model(alpha_0=0.5)
    expected = law_of_text(Table(model), 3, 2)
    assert chi_square_p(counts(write(model, 3000, 3, 2)), torch.tensor(expected)) > 1e-3


@pytest.mark.parametrize(("alpha_0", "steps"), [(0.0, 1), (0.25, 24), (1.0, 96)])
def test_with_the_exact_denoiser_the_text_is_the_language(alpha_0, steps):
    """Left to right it is exact, by diffusion up to 1 / steps; one step of diffusion alone is another law."""
    model, law = table_model(alpha_0), TableLanguage.random(3, 3, seed=5).probabilities
    assert chi_square_p(counts(write(model, 3000, 3, steps)), law) > 1e-3
    if alpha_0 == 1:
        assert chi_square_p(counts(write(model, 3000, 3, 1)), law) < 1e-3


def test_diffusion_alone_writes_what_masked_diffusion_does():
    """With a denoiser that depends on the known tokens only."""
    for steps in (1, 3, 8):
        eso, masked = (write(model, 50, 3, steps) for model in (table_model(), table_model(diffusion="masked")))
        assert torch.equal(eso, masked)


@pytest.mark.parametrize("alpha_0", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_cache_is_exact(alpha_0, attention, monkeypatch):
    model, forwards, cached = build(alpha_0, attn_implementation=attention), [], RankCache.states

    def compared(self, rows, block, where, times):
        found = cached(self, rows, block, where, times)
        whole = self.model.model(**self.canvas.inputs(rows, where), positions=where).last_hidden_state
        torch.testing.assert_close(found, whole)
        forwards.append(len(found))
        return found

    monkeypatch.setattr(RankCache, "states", compared)
    prompt = torch.tensor([[PAD, BOS, MASK, 1], [BOS, 2, 0, MASK], [PAD, PAD, PAD, BOS]])
    given = {"attention_mask": (prompt != PAD).long(), "max_new_tokens": 6, "num_diffusion_steps": 4, **OWN}
    text = [
        model.generate(prompt, **given, prefix_cache=cache, generator=torch.Generator().manual_seed(1))
        for cache in (None, True)
    ]
    assert torch.equal(*text)
    assert len(forwards) > 3
    assert not bool((text[0] == MASK).any())


@pytest.mark.parametrize("cache", [None, True])
def test_a_row_does_not_depend_on_its_batch(cache):
    model, rows = build(0.5), [[BOS, 1, MASK, 2], [BOS], [BOS, 0, 0]]
    seeds = lambda: [torch.Generator().manual_seed(7 + number) for number in range(3)]  # noqa: E731
    given = {"max_new_tokens": 6, "num_diffusion_steps": 4, "prefix_cache": cache, **OWN}
    padded = torch.tensor([[PAD] * (4 - len(row)) + row for row in rows])
    together = model.generate(padded, attention_mask=(padded != PAD).long(), generator=seeds(), **given)
    for number, row in enumerate(rows):
        alone = model.generate(torch.tensor([row]), generator=[seeds()[number]], **given)
        assert torch.equal(alone[0], together[number, 4 - len(row) :])


def test_steps_forwards_and_history():
    model = build(0.0)
    given = {"return_dict_in_generate": True, "output_history": True}
    out = write(model, 2, 4, 3, **given)
    assert out.num_forward_passes.tolist() == [4, 4], "one a token"
    masks = (out.history == MASK).sum(-1)
    assert masks[:, 0].tolist() == [4, 4, 4, 3, 2, 1, 0]
    for step in range(3, 7):
        assert bool((out.history[step, :, 1 : step - 1] != MASK).all()), "left to right"
    fixed = write(model, 2, 4, 3, do_sample=False, suppress_tokens=None)
    assert torch.equal(fixed[0], fixed[1])


def test_a_text_ends_with_its_eos():
    model = build(0.0)
    out = write(model, 40, 6, 1, eos_token_id=2, pad_token_id=PAD, return_dict_in_generate=True)
    ends = (out.sequences == 2).long().argmax(-1)
    ended = (out.sequences == 2).any(-1)
    assert bool(ended.any())
    assert out.num_forward_passes[ended].tolist() == ends[ended].tolist(), "nothing is run behind it"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "confidence"}, "sampler='confidence' does not work with diffusion='eso'.*use ancestral"),
        ({"block_length": 2}, "block_length=2 does not work with diffusion='eso'"),
        ({"guidance_scale": 2.0}, r"guidance_scale=2.0 .* do not work with diffusion='eso'"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    assert "confidence" in available_samplers()
    with pytest.raises(ValueError, match=message):
        write(build(0.5), 1, 4, 2, **options)
