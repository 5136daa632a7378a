"""Checkpoints of every kind in lm-evaluation-harness: likelihoods against enumeration and the library's own, texts, bad input."""

import json
import math

import pytest
import torch

lm_eval = pytest.importorskip("lm_eval")

from kinds_of_models import CONTEXT, KINDS  # noqa: E402
from lm_eval_requests import requests  # noqa: E402

from arche_mdlm.evaluation.lm_eval_model import ArcheMDLM  # noqa: E402
from arche_mdlm.evaluation.pair_likelihood import pair_likelihoods, seed_of  # noqa: E402
from arche_mdlm.evaluation.requests import Encoder, Writing  # noqa: E402
from arche_mdlm.metrics.likelihood import nelbo, nll  # noqa: E402

PAIRS = [
    ("The cat", " sat on a red mat."),
    ("The cat", " ran"),
    ("The little dog saw the", " tree"),
    ("", "Tim and Sue"),
]


@pytest.fixture(scope="module")
def lm(folders):
    """Models by kind and arguments, each loaded once."""
    made: dict = {}

    def get(kind: str, **own) -> ArcheMDLM:
        key = (kind, *sorted(own.items()))
        if key not in made:
            made[key] = ArcheMDLM(str(folders[kind]), **{"batch_size": 8, "num_samples": 4} | own)
        return made[key]

    return get


# --- likelihoods ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_likelihoods_are_those_of_the_library(lm, kind):
    model = lm(kind)
    found = model.loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True)
    for (context, continuation), (value, _) in zip(PAIRS[1:], found[1:], strict=True):
        given = model.tokenizer(context)["input_ids"]
        whole = torch.tensor([model.tokenizer(context + continuation)["input_ids"]])
        mask = (torch.arange(whole.shape[1]) < len(given))[None]
        if kind == "ar":
            assert value == pytest.approx(-float(nll(model.model, whole, condition_mask=mask)), rel=1e-5)
            continue
        many = nelbo(model.model, whole, condition_mask=mask, num_samples=200)
        few = nelbo(model.model, whole.expand(40, -1), condition_mask=mask.expand(40, -1), num_samples=4)
        assert abs(-value - float(many.nats.mean())) < 5 * float(few.nats.std()) + 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_neither_neighbours_nor_order_nor_batch_change_a_likelihood(lm, kind):
    one = lm(kind).loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True)
    other = lm(kind, batch_size=3).loglikelihood(requests("loglikelihood", [*PAIRS[::-1], PAIRS[0]]), disable_tqdm=True)
    assert [value for value, _ in other[:4]] == pytest.approx([value for value, _ in one[::-1]], rel=1e-5)
    assert other[4] == other[3]


def test_another_seed_draws_other_noise(lm):
    values = [
        lm("masked", seed=seed).loglikelihood(requests("loglikelihood", PAIRS[:1]), disable_tqdm=True)[0][0]
        for seed in (0, 1)
    ]
    assert values[0] != values[1]


def test_equal_requests_share_their_forwards(lm):
    model, rows = lm("masked").model, []
    with model.model.register_forward_hook(
        lambda module, given, named, out: rows.append(named["input_ids"].shape), with_kwargs=True
    ):
        pair_likelihoods(model, [([0, 5, 6], [7, 8])] * 5 + [([0, 5], [7])], num_samples=4, batch_size=8)
    assert rows == [(8, 5)], "two different pairs, four draws each, in one forward"


def test_the_exact_likelihood_of_a_policy(lm):
    model = lm("masked", likelihood="left_to_right")
    texts = [(f"The cat{end}", " sat") for end in ("", " ran")]
    assert model.loglikelihood(requests("loglikelihood", texts), disable_tqdm=True)[0][0] < 0
    # Of all continuations of two tokens the probabilities sum to 1.
    ids = range(4, 12)
    kept = [([0, 5], [a, b]) for a in ids for b in ids]
    firsts = pair_likelihoods(model.model, kept, likelihood="left_to_right").nats.neg().exp().view(8, 8)
    assert 0 < float(firsts.sum()) < 1


def test_standard_errors_are_in_the_results(folders):
    model = ArcheMDLM(str(folders["masked"]), num_samples=4, batch_size=8)
    model.loglikelihood(requests("loglikelihood", PAIRS, "one"), disable_tqdm=True)
    model.loglikelihood_rolling(requests("loglikelihood_rolling", [("Tim and Sue play.",)], "two"), disable_tqdm=True)
    info = model.get_model_info()
    assert (info["likelihood"], info["num_samples"], info["diffusion"]) == (
        "nelbo",
        4,
        model.arm.family(model.model.config),
    )
    errors = info["log_likelihood_standard_error_nats"]
    assert errors["one"]["requests"] == 4
    assert 0 < errors["one"]["mean"] <= errors["one"]["largest"] == max(model.standard_errors["one"])
    assert errors["two"]["requests"] == 1
    exact = ArcheMDLM(str(folders["ar"]))
    exact.loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True)
    assert "log_likelihood_standard_error_nats" not in exact.get_model_info()
    json.dumps(info)


# --- the greedy flag --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["masked", "block", "ar"])
def test_the_flag_says_whether_greedy_decoding_writes_the_answer(lm, kind):
    model = lm(kind, greedy="always")
    prompt = model.tokenizer("The cat")["input_ids"]
    own = {} if kind == "ar" else {"num_diffusion_steps": 32 if kind == "block" else 4}  # blocks share the steps
    own |= {} if kind == "ar" else {"sampler": "confidence"}
    written = model.model.generate(torch.tensor([prompt]), max_new_tokens=4, do_sample=False, eos_token_id=None, **own)[
        0, len(prompt) :
    ].tolist()
    others = [[*written[:i], 9 if written[i] != 9 else 10, *written[i + 1 :]] for i in range(4)]
    pairs = [(prompt, one) for one in (written, *others)]
    found = pair_likelihoods(model.model, pairs, greedy=[True] * 5, num_samples=2)
    assert found.greedy.tolist() == [True, False, False, False, False]


@pytest.mark.parametrize("kind", ["uniform", "uniform_block", "eso"])
def test_the_flag_of_families_without_an_order_is_by_generation(lm, kind):
    """Of all continuations of one token, from one seed each, those that their own generation writes."""
    model = lm(kind).model
    rows = torch.tensor([[0, 5, token] for token in range(4, 16)])
    from arche_mdlm.evaluation.greedy import writes_greedily

    given = torch.tensor([[True, True, False]]).expand(12, -1)
    written = model.generate(
        rows[:1, :2], max_new_tokens=1, num_diffusion_steps=1, do_sample=False, eos_token_id=None,
        generator=[torch.Generator().manual_seed(3)],
    )  # fmt: skip
    rows[0, 2] = written[0, 2]
    found = writes_greedily(model, rows, torch.ones_like(rows), given, seeds=[3] * 12)
    assert found.tolist() == (rows[:, 2] == written[0, 2]).tolist()
    assert bool(found[0])


def test_the_flag_is_found_where_a_task_asks_for_it(lm, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "arche_mdlm.evaluation.lm_eval_model.pair_likelihoods",
        lambda model, pairs, greedy, **own: asked.append(greedy) or pair_likelihoods(model, pairs, num_samples=2),
    )
    for kind, alone in (("auto", True), ("auto", False), ("always", False), ("never", True)):
        model = lm("masked", greedy=kind)
        model.loglikelihood(requests("loglikelihood", PAIRS[:4], alone=alone), disable_tqdm=True)
    assert asked == [[True] * 4, [False] * 4, [True] * 4, [False] * 4]


# --- long texts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("least", [1, 3])
@pytest.mark.parametrize("length", [1, 6, 7, 8, 20, 23])
def test_windows_score_each_token_once(tokenizer, length, least):
    encoder = Encoder(tokenizer, 8, window_context=least)
    ids = list(range(4, 4 + length))
    encoder.tokenizer = lambda text, **own: {"input_ids": ids}
    encoder.tokenizer.bos_token_id = encoder.tokenizer.eos_token_id = 0
    windows = encoder.windows("any")
    assert [token for _, scored in windows for token in scored] == ids
    at = 0
    for number, (context, scored) in enumerate(windows):
        before = [0, *ids][: at + 1]
        assert context == before[len(before) - len(context) :], "what stands before"
        assert len(context) + len(scored) <= 8
        if number:
            assert len(context) >= least
            assert len(context) + len(scored) == 8, "as much context as there is room"
        at += len(scored)


@pytest.mark.parametrize("kind", ["ar", "masked", "block", "eso"])
def test_long_texts_are_sums_over_windows(lm, kind):
    model = lm(kind, max_length=8)
    text = "The little cat sat on a red mat. The dog ran."
    (found,) = model.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,)]), disable_tqdm=True)
    windows = model.encoder.windows(text)
    assert len(windows) > 2
    parts = pair_likelihoods(model.model, windows, num_samples=4)
    assert found == pytest.approx(-float(parts.nats.sum()), rel=1e-5)
    if kind == "ar":
        direct = 0.0
        for context, scored in windows:
            row = torch.tensor([[*context, *scored]])
            laws = model.model(row).logits.detach()[0, len(context) - 1 : -1].double()
            laws[:, model.tokenizer.mask_token_id] = -math.inf
            direct += float(laws.log_softmax(-1).gather(1, torch.tensor(scored)[:, None]).sum())
        assert found == pytest.approx(direct, rel=1e-4)


def test_an_empty_text_has_probability_one(lm):
    found = lm("masked").loglikelihood_rolling(requests("loglikelihood_rolling", [("",), ("Tim",)]), disable_tqdm=True)
    assert found[0] == 0
    assert found[1] < 0


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_those_of_generate(lm, kind):
    own = {} if kind == "ar" else {"num_diffusion_steps": 4}
    model = lm(kind, **own)
    asked = [
        ("The cat", {"until": [], "max_gen_toks": 6}),
        ("The little dog saw the", {"until": ["."], "max_gen_toks": 5}),
    ]
    found = model.generate_until(requests("generate_until", asked), disable_tqdm=True)
    again = model.generate_until(requests("generate_until", asked[::-1]), disable_tqdm=True)
    assert found == again[::-1]
    assert "." not in found[1]
    ids = model.tokenizer("The cat")["input_ids"]
    own |= {"max_length": len(ids) + 6} if kind == "ar" else {"max_new_tokens": 6}
    own |= {} if kind == "ar" else {"generator": [torch.Generator().manual_seed(seed_of(0, ids, [0]))]}
    out = model.model.generate(torch.tensor([ids]), do_sample=False, **own)[0, len(ids) :]
    assert found[0] == model.tokenizer.decode(out, skip_special_tokens=True)


def test_a_stop_string_cuts_the_text(lm):
    model = lm("masked", num_diffusion_steps=6, sampler="confidence")
    options = {"until": [], "max_gen_toks": 8}
    (whole,) = model.generate_until(requests("generate_until", [("The cat", options)]), disable_tqdm=True)
    stop = whole[3:5]
    (cut,) = model.generate_until(
        requests("generate_until", [("The cat", options | {"until": [stop]})]), disable_tqdm=True
    )
    assert stop not in cut
    assert Writing((stop,), 1, ()).cut(whole) == whole[: whole.index(stop)]


def test_repeated_requests_get_other_texts_where_they_are_sampled(lm):
    model = lm("masked", num_diffusion_steps=8)
    options = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0}
    found = model.generate_until(requests("generate_until", [("The cat", options)] * 3), disable_tqdm=True)
    assert len(set(found)) == 3
    assert model.generate_until(requests("generate_until", [("The cat", options)]), disable_tqdm=True) == found[:1]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, {"do_sample": False}), ({"temperature": 0.0}, {"do_sample": False}), ({"do_sample": True}, {"do_sample": True}),
        ({"temperature": 0.7}, {"do_sample": True, "temperature": 0.7}), ({"do_sample": False, "temperature": 0.7}, {"do_sample": False}),
        ({"do_sample": True, "temperature": 0.0, "top_p": 0.9}, {"do_sample": False, "top_p": 0.9}),
    ],
)  # fmt: skip
def test_options_of_a_task_are_those_of_generate(asked, expected):
    writing = Writing.of(asked | {"until": "\n", "max_tokens": 7}, 256)
    assert (dict(writing.options), writing.stops, writing.max_new_tokens) == (expected, ("\n",), 7)
    assert Writing.of({"until": ["a", "", "b", "a"]}, 256).stops == ("a", "b")


def test_a_long_context_is_cut_on_the_left_and_keeps_its_bos(lm, caplog):
    model = lm("ar")
    long = "The cat sat. " * 30
    (found,) = model.loglikelihood(requests("loglikelihood", [(long, "The dog")]), disable_tqdm=True)
    given, wanted = model.encoder.pair(long, "The dog")
    assert (given[0], len(given) + len(wanted)) == (model.tokenizer.bos_token_id, CONTEXT)
    assert given[1:] == model.tokenizer(long.rstrip())["input_ids"][-len(given) + 1 :]
    assert found[0] == pytest.approx(-float(pair_likelihoods(model.model, [(given, wanted)]).nats), rel=1e-6)
    assert "1 contexts were truncated on the left" in caplog.text


# --- chats ------------------------------------------------------------------------------------------------------------

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}bot: {% endif %}"


def test_chat_templates(folders):
    model = ArcheMDLM(str(folders["ar"]))
    with pytest.raises(ValueError, match="chat template"):
        model.chat_template(True)
    assert model.chat_template(False) is None
    model.tokenizer.chat_template = TEMPLATE
    assert model.chat_template(True) == TEMPLATE
    text = model.apply_chat_template([{"role": "user", "content": "The cat"}])
    assert text == f"{model.tokenizer.bos_token}user: The cat\nbot: "
    ids = model.encoder.encode(text)
    assert ids[0] == model.tokenizer.bos_token_id
    assert ids[1] != model.tokenizer.bos_token_id
    assert model.tokenizer_name == str(folders["ar"]).replace("/", "__")


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "own", "why"),
    [
        ("masked", {"num_sample": 4}, "model_args has num_sample=4, which is not an option of arche_mdlm; did you mean 'num_samples'"),
        ("masked", {"temperature": 1.0}, "such as temperature and max_gen_toks, go into --gen_kwargs"),
        ("masked", {"num_samples": 0}, "model_args num_samples=0 must be a whole number of at least 2"),
        ("masked", {"num_samples": "x"}, "model_args num_samples='x' must be a whole number"),
        ("masked", {"likelihood": "elbo"}, "model_args likelihood='elbo' is not one of nelbo, left_to_right"),
        ("masked", {"greedy": "yes"}, "model_args greedy='yes' is not one of auto, always, never"),
        ("masked", {"dtype": "int8"}, "model_args dtype='int8' is not one of"),
        ("masked", {"max_length": 41}, "model_args max_length=41 must be from 2 to 40"),
        ("masked", {"max_gen_toks": 0}, "model_args max_gen_toks=0 must be"),
        ("masked", {"window_context": 40}, "model_args window_context=40 must be below max_length=40"),
        ("masked", {"batch_size": 0}, "batch_size=0 must be a whole number of at least 1, or 'auto'"),
        ("ar", {"sampler": "confidence"}, "model_args sampler='confidence' is for diffusion models"),
        ("ar", {"likelihood": "confidence"}, "model_args likelihood='confidence' is for diffusion models"),
    ],
)  # fmt: skip
def test_bad_model_args_are_named(folders, kind, own, why):
    with pytest.raises(ValueError, match=why):
        ArcheMDLM(str(folders[kind]), **own)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_the_gpu_that_lm_eval_asks_for_by_itself_is_no_error_without_one(folders):
    assert ArcheMDLM(str(folders["ar"]), device="cuda:0").device == torch.device("cpu")


def test_a_checkpoint_is_needed(tmp_path):
    with pytest.raises(ValueError, match="model_args needs pretrained=FOLDER"):
        ArcheMDLM()
    with pytest.raises(ValueError, match="config.json is missing"):
        ArcheMDLM(str(tmp_path))


@pytest.mark.parametrize("kind", ["masked", "ar"])
def test_bad_requests_are_named(lm, kind):
    model = lm(kind)
    with pytest.raises(ValueError, match="the continuation '' of the context 'The cat' has no token"):
        model.loglikelihood(requests("loglikelihood", [("The cat", "")]), disable_tqdm=True)
    with pytest.raises(ValueError, match=r"but with a token before it only 39 fit \(max_length=40\)"):
        model.loglikelihood(requests("loglikelihood", [("The cat", " sat" * 60)]), disable_tqdm=True)
    with pytest.raises(ValueError, match="max_gen_toks=40 leaves no room for a context in max_length=40"):
        model.generate_until(requests("generate_until", [("The cat", {"max_gen_toks": 40})]), disable_tqdm=True)
    with pytest.raises(ValueError, match="max_gen_toks=0 must be at least 1"):
        model.generate_until(requests("generate_until", [("The cat", {"max_gen_toks": 0})]), disable_tqdm=True)


def test_bad_pairs_are_named(lm):
    model = lm("masked").model
    for pairs, why in (
        ([], "pairs is empty"), ([([], [5])], "pair 0 has an empty prompt"), ([([0], [5]), ([0], [])], "pair 1 has an empty completion"),
        ([([0] * 20, [5] * 21)], r"pair 0 has 20 \+ 21 tokens, more than the model's context of 40"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=why):
            pair_likelihoods(model, pairs)
    with pytest.raises(ValueError, match="likelihood='x' is not one of nelbo"):
        pair_likelihoods(model, [([0], [5])], likelihood="x")
    with pytest.raises(ValueError, match="num_samples=0 must be at least 2"):
        pair_likelihoods(model, [([0], [5])], num_samples=0)
