"""Error rates: exact posteriors of long chains, the law of the exact denoiser, thresholds and slopes, and the study end to end."""

import json

import pytest
import torch
from exact_model import ExactModel
from goodness_of_fit import chi_square_p
from oracles.chains import HiddenMarkovModel, NGramLanguage
from seeds import seeded

from arche_mdlm.commands.main import main
from arche_mdlm.studies.error_rates import jobs
from arche_mdlm.studies.error_rates.jobs import language_tokenizer, make_language, measure
from arche_mdlm.studies.error_rates.settings import ErrorRatesSettings, step_grid
from arche_mdlm.studies.error_rates.thresholds import (
    exponent,
    growth_over_seeds,
    growth_over_texts,
    sequence_steps,
    steps_needed,
    token_steps,
)
from arche_mdlm.studies.error_rates.verdicts import with_verdicts


@pytest.fixture(scope="module")
def languages():
    return {
        "hmm": HiddenMarkovModel.random(3, 4, 4, seed=2, sparsity=0.5),
        "ngram": NGramLanguage.random_order(2, 4, 4, seed=1, sparsity=0.5),
    }


# --- languages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", ["hmm", "ngram"])
def test_posteriors_are_those_of_enumeration(languages, kind, dtype, monkeypatch):
    language = languages[kind]
    monkeypatch.setattr(language, "dtype", dtype)
    tokens = language.sample(64, seeded())
    known = torch.rand(tokens.shape, generator=seeded(1)) < 0.5

    found = language.posterior(tokens, known)

    expected = language.to_table().posterior(tokens, known)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-12 if dtype is torch.float64 else 1e-6)


def test_an_ngram_language_draws_each_token_given_those_before():
    language = NGramLanguage.random_order(2, 4, 5, seed=3, sparsity=0.5)
    x = language.sample(200, seeded())

    by_hand = torch.zeros(len(x), dtype=torch.float64)
    state = language.before.expand(len(x), -1)
    for position in range(5):  # the law of the run of two tokens before each position
        step = state[:, :, None] * language.conditional  # (B, runs, V)
        chosen = step.gather(-1, x[:, None, position, None].expand(-1, step.shape[1], 1))[..., 0]
        by_hand += chosen.sum(-1).log()
        chosen = chosen / chosen.sum(-1, keepdim=True)
        following = (torch.arange(16) % 4)[None] * 4 + x[:, position, None]
        state = torch.zeros(len(x), 16, dtype=torch.float64).scatter_add_(1, following, chosen)

    torch.testing.assert_close(language.log_prob(x), by_hand)
    assert not language.forbids(x).any()
    assert float((language.conditional == 0).double().mean()) == pytest.approx(0.5, abs=0.13)
    assert float(language.log_prob(language.sequences).exp().sum()) == pytest.approx(1)


def test_an_ngram_language_is_stationary():
    language = NGramLanguage.random_order(2, 4, 3, seed=1, sparsity=0.5)
    torch.testing.assert_close(language.before @ language.transition, language.before)


def test_contradictions_have_the_explanation_with_fewest_errors():
    """In float32 as in float64, and beside rows without one."""
    language = make_language(settings_of("ngram", 12))
    tokens = torch.randint(0, 8, (40, 12), generator=seeded())
    known = torch.rand(tokens.shape, generator=seeded(1)) < 0.6
    exact = language.posterior(tokens, known)
    language.dtype = torch.float32
    rough = language.posterior(tokens, known)

    assert language.forbids(tokens).all()
    assert not exact.isnan().any()
    torch.testing.assert_close(rough.double(), exact, rtol=0, atol=1e-4)
    torch.testing.assert_close(exact.sum(-1), torch.ones(40, 12, dtype=torch.float64))


def settings_of(kind, length):
    own = {"kind": kind, "length": length, "seed": 0}
    return own | ({"order": 2, "vocab_size": 8} if kind == "ngram" else {"states": 8, "vocab_size": 16})


@pytest.mark.parametrize("kind", ["ngram", "hmm"])
def test_smoothing_forbids_nothing_and_changes_little(kind):
    language = make_language(settings_of(kind, 20))
    own, noise = language.sample(300, seeded()), torch.randint(0, language.vocab_size, (50, 20), generator=seeded())
    smoothed = language.smoothed(0.01)

    found = measure(language, own, 0.01)

    assert sum(found["forbidden"]) == 0
    assert sum(found["nats"]) / 300 == pytest.approx(-float(language.log_prob(own).mean()) / 20, abs=0.05)
    assert smoothed.log_prob(noise).isfinite().all()
    assert sum(measure(language, noise, 0.01)["forbidden"]) > 40


# --- the exact denoiser -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["first_hitting", "entropy", "margin"])
def test_one_token_a_step_gives_the_language_and_parallel_steps_do_not(languages, sampler):
    model = ExactModel(languages["ngram"])
    law = languages["ngram"].to_table().probabilities
    options = {"sampler": sampler, "do_sample": True, "top_k": 0, "max_new_tokens": 4}

    def draw(steps):
        return model.counts(model.generate(model.bos(3000), num_diffusion_steps=steps, generator=seeded(), **options))

    assert chi_square_p(draw(4), law) > 1e-3
    assert chi_square_p(draw(2), law) < 1e-3


# --- thresholds -------------------------------------------------------------------------------------------------------


def test_thresholds_are_interpolated_on_a_logarithmic_scale():
    assert steps_needed({1: 0.5, 2: 0.1, 4: -0.1, 8: -0.2}).value == pytest.approx(2 * 2**0.5)
    assert steps_needed({1: -0.1, 2: 0.1, 4: -0.3}).value == pytest.approx(2 * 2**0.25), "for good"
    assert steps_needed({1: -0.5, 2: -0.1}) == (1, "at most")
    assert steps_needed({1: 0.5, 2: 0.1}) == (2, "more than")
    assert sequence_steps({1: 1.0, 4: 0.75, 16: 0.25}).value == pytest.approx(8)
    assert token_steps({1: 2.0, 2: 1.5, 4: 1.0, 8: 1.0}).value < 4
    assert token_steps({1: 2.0, 2: 1.5, 4: 1.0}, limit=0.5) == (4, "more than")


def test_the_exponent_of_a_power_law():
    assert exponent({32: 8, 64: 16, 128: 32}) == pytest.approx(1)
    assert exponent({32: 7, 128: 7}) == pytest.approx(0)


def cells(share, number=400, steps=(1, 2, 4, 8, 16, 32, 64)):
    """A share of impossible texts that halves where steps double `share` times."""
    found = {}
    for step in steps:
        impossible = round(number * min(1.0, share / step))
        found[step] = {"forbidden": [1] * impossible + [0] * (number - impossible), "nats": [1.0 + 1 / step] * number}
    return found


def test_growth_over_texts_holds_a_known_exponent():
    growth = growth_over_texts({8: cells(2), 16: cells(4), 32: cells(8)}, "sequence")
    assert growth["all"]["low"] < 1 < growth["all"]["high"]
    assert growth["all"]["high"] - growth["all"]["low"] < 0.3
    assert growth["longest"]["lengths"] == [16, 32]
    steps = growth["steps"]["16"]
    assert steps["low"] <= steps["estimate"] <= steps["high"]
    flat = growth_over_texts({8: cells(2), 16: cells(2), 32: cells(2)}, "token")
    assert flat["all"]["exponent"] == pytest.approx(0, abs=1e-9)
    alone = growth_over_texts({8: cells(2)}, "token")
    assert alone["all"]["exponent"] is None


def test_growth_over_seeds():
    one = {8: cells(2), 16: cells(4)}
    growth = growth_over_seeds([one, {8: cells(2.2), 16: cells(4.2)}, one], "sequence")
    own = growth["all"]
    assert own["low"] < own["exponent"] < own["high"]
    assert own["seeds"][0] == pytest.approx(1, abs=0.05)
    single = growth_over_seeds([one], "sequence")
    assert single["all"]["low"] is None
    never = growth_over_seeds([{8: cells(2), 16: cells(64)}] * 2, "sequence")
    assert never["all"]["not_reached"]


def test_an_undecided_interval_is_no_verdict():
    def growth(exponent, half, **more):
        return {"exponent": exponent, "low": exponent - half, "high": exponent + half, "not_reached": False} | more

    def verdicts(*growths):
        groups = [{"token": {"all": one, "longest": one}, "sequence": {"all": one, "longest": one}} for one in growths]
        return [group["token"]["all"]["verdict"] for group in with_verdicts(groups)[0]]

    assert verdicts(growth(0.3, 0.2)) == ["not decided"]
    assert verdicts(growth(1.0, 0.2), growth(-1.0, 0.2), growth(0.0, 0.05)) == ["grows", "falls", "flat"]
    assert verdicts(growth(1.0, 0.0), growth(0.24, 0.0)) == ["grows", "not decided"], "no resample differs"
    assert verdicts(growth(0.5, 0.24)) == ["not decided"], (
        "by itself it lies above 0.25, but eight exponents are looked at"
    )
    assert verdicts(growth(1.0, 0.2, not_reached=True)) == ["not reached"]
    assert verdicts({"exponent": None, "low": None, "high": None, "not_reached": False}) == ["no interval"]
    assert verdicts(growth(1.0, 0.2, seeds=[1.0, 0.98])) == ["not decided"], "two seeds have one degree of freedom"


# --- the study --------------------------------------------------------------------------------------------------------


def test_steps_of_any_length():
    assert step_grid(8, "entropy") == [1, 2, 4, 8]
    assert step_grid(12, "entropy") == [1, 2, 4, 8, 12]
    assert step_grid(2, "entropy") == [1, 2]
    assert step_grid(48, "ancestral") == [1, 2, 4, 8, 16, 32, 48, 64, 128, 256]
    assert step_grid(300, "ancestral")[-1] == 300


def test_bad_settings():
    for wrong, message in (
        ({"languages": ("english",)}, "languages"),
        ({"lengths": (8, 8)}, "lengths"),
        ({"lengths": (1, 8)}, "lengths"),
        ({"trained_languages": ("hmm",), "languages": ("ngram",)}, "trained_languages"),
        ({"smoothing": 0.0}, "smoothing"),
        ({"seeds": ()}, "seeds"),
        ({"num_samples": 1}, "num_samples"),
    ):
        with pytest.raises(ValueError, match=message):
            ErrorRatesSettings(**wrong)


def test_the_tokenizer_has_the_ids_of_the_exact_model():
    tokenizer = language_tokenizer(8)
    assert (tokenizer.bos_token_id, tokenizer.mask_token_id, tokenizer.pad_token_id) == (8, 9, 10)
    assert tokenizer.convert_ids_to_tokens([0, 7]) == ["0", "7"]


def run(output, *extra):
    return main(
        ["study", "error-rates", "--output", str(output), "--lengths", "6", "8", "--languages", "ngram", "--samplers",
         "ancestral", "entropy", "--num_samples", "24", "--seeds", "0", "1", "--positions", "512", "--batch_positions", "64",
         "--trained_samples", "6", "--trained_samplers", "ancestral", "--workers", "0", "--threads", "1",
         "--set", "model.config.hidden_size=16", "--set", "model.config.intermediate_size=16", *extra]
    )  # fmt: skip


def test_report_and_resume(tmp_path, capsys, monkeypatch):
    """Interrupted between two numbers of steps of a job, the study goes on there, and ends with the same figures."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(whole) == 0
    real, calls = jobs.generate, []

    def stopped(*args):
        calls.append(args)
        if len(calls) in (3, 12, 20):
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(jobs, "generate", stopped)
    assert [run(cut) for _ in range(4)] == [130, 130, 130, 0]
    report, again = (json.loads((root / "report.json").read_text()) for root in (whole, cut))
    assert again["groups"] == report["groups"]
    plan = json.loads((cut / "study.json").read_text())["jobs"]
    assert len(calls) == 3 + sum(len(job["settings"].get("steps", ())) for job in plan), (
        "each once, three of them twice"
    )
    check_report(report, whole)


def check_report(report, output):
    assert {(g["denoiser"], g["sampler"]) for g in report["groups"]} == {
        ("oracle", "ancestral"), ("oracle", "entropy"), ("trained", "ancestral")}  # fmt: skip
    oracle = next(g for g in report["groups"] if (g["denoiser"], g["sampler"]) == ("oracle", "entropy"))
    assert [point["steps"] for point in oracle["curves"]["6"]] == [1, 2, 4, 6]
    assert oracle["curves"]["6"][-1]["impossible"]["estimate"] == 0, "one token a step"
    assert oracle["curves"]["6"][0]["impossible"]["estimate"] > 0
    trained = report["trainings"]["train-ngram-8-s1"]
    assert trained["bound"] > trained["entropy"] - 0.05
    text = (output / "report.md").read_text(encoding="utf-8")
    assert "# Error rates" in text
    assert str(output) not in text
    assert (output / "oracle-ngram-token.png").stat().st_size > 10_000


def test_one_seed_has_no_interval_and_is_no_error(tmp_path):
    assert run(tmp_path / "one", "--seeds", "0", "--lengths", "4", "6") == 0
    text = (tmp_path / "one" / "report.md").read_text(encoding="utf-8")
    assert "one seed, so no interval" in text
    assert "no interval" in text


def test_bad_input(tmp_path, capsys):
    for extra, message in (
        (["--samplers", "ancestrl"], "samplers=['ancestrl'] are not among"),
        (["--lengths", "1"], "--lengths 1"),
        (["--smoothing", "0"], "--smoothing"),
        (["--set", "training.max_stepz=3"], "max_stepz"),
    ):
        assert run(tmp_path / "x", *extra) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
