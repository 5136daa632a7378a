"""The comparison of families, end to end on untrained models: every part of the report is there and adds up."""

import gzip
import json
import math

import numpy as np
import pytest
import torch

from arche_mdlm.commands.main import main
from arche_mdlm.configuration.settings import ModelSettings
from arche_mdlm.metrics.corpus_likelihood import corpus_nelbo, corpus_nll
from arche_mdlm.metrics.judge import load_judge
from arche_mdlm.metrics.order_likelihood import order_nll
from arche_mdlm.metrics.policy_likelihood import corpus_policy_nll
from arche_mdlm.studies.engine import texts as jobs
from arche_mdlm.studies.engine.command import publish
from arche_mdlm.studies.families import jobs as own_jobs
from arche_mdlm.studies.families.comparisons import compare
from arche_mdlm.studies.families.report import FILES, summary_lines
from arche_mdlm.training.files.own_files import MANIFEST
from arche_mdlm.training.models.build import build_model
from arche_mdlm.training.models.loading import load_arm, save_arm, set_generation_defaults
from tools.figures_again import main as figures_command

TEXTS = [f"The {a} saw the {b}. The end." for a in ("dog", "cat", "bird") for b in ("tree", "sun", "mat")]
LENGTH = 24
KINDS = {
    "ar": ("llama", {}),
    "mdlm": ("mdlm", {}),
    "block": ("mdlm", {"diffusion": "block", "attention_block_length": 8}),
    "uniform": ("mdlm", {"diffusion": "uniform", "time_conditioning": "log_snr"}),
    "eso": ("mdlm", {"diffusion": "eso", "alpha_0": 0.5}),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer):
    """A folder of each of `KINDS`, and held_out.jsonl."""
    root = tmp_path_factory.mktemp("families")
    shape = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
             "num_attention_heads": 2, "max_position_embeddings": LENGTH, "tie_word_embeddings": True}  # fmt: skip
    for name, (architecture, own) in KINDS.items():
        torch.manual_seed(0)
        model = build_model(ModelSettings(architecture, shape | own), tokenizer)
        set_generation_defaults(model, tokenizer, LENGTH)
        save_arm(model, tokenizer, root / name)
    steps = [{"step": 5, "tokens": 70, "tflop_per_second": 300.0, "seconds": 4.0}]
    log = {"run": {"before": {"steps": 9, "tokens": 90, "tflop": 34.0}}, "history": steps}
    (root / "mdlm" / "training_log.json").write_text(json.dumps(log))
    (root / "held_out.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS), encoding="utf-8")
    return root


def run(place, output, *extra):
    return main(
        ["compare", "--families", "--ar", str(place / "ar"), "--models", f"masked={place / 'mdlm'}",
         f"in blocks={place / 'block'}", "--output", str(output), "--steps", "3", "6", "--batch_sizes", "1", "3",
         "--num_samples", "4", "--num_timed", "2", "--repeats", "2", "--data", str(place / "held_out.jsonl"),
         "--likelihood_stories", "6", "--exact_stories", "3", "--threads", "1", *extra]
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(place, tmp_path_factory):
    """The study's folder, interrupted once on the way."""
    output = tmp_path_factory.mktemp("out") / "study"
    seen = []

    def stopped(*args):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(args)
        return real(*args)

    real = jobs.texts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "texts", stopped)
        assert run(place, output, "--references", str(place / "held_out.jsonl")) == 130
    assert not (output / "report.md").exists()
    assert run(place, output, "--references", str(place / "held_out.jsonl")) == 0
    return output


@pytest.fixture(scope="module")
def report(finished):
    return json.loads((finished / "report.json").read_text(encoding="utf-8"))


def test_the_plan_times_first_and_is_done_once(place, finished, tmp_path, capsys):
    assert run(place, tmp_path / "new", "--dry_run") == 0
    planned = [line.split() for line in capsys.readouterr().out.splitlines()[:-1]]
    kinds = [words[-2] for words in planned]
    assert kinds == ["speed"] * 5 + ["texts"] * 5 + ["likelihood"] * 2 + ["exact", "likelihood", "exact"] + ["judged"] * 5 + [
        "summarise"
    ]  # fmt: skip
    assert not (tmp_path / "new").exists()
    assert run(place, finished, "--references", str(place / "held_out.jsonl"), "--dry_run") == 0
    assert "22 jobs, 22 of them done, 0 to do" in capsys.readouterr().out
    assert {path.name for path in finished.iterdir()} == {
        MANIFEST, "frontier.png", "report.json", "report.md", "study.json", "jobs", "work", ".lock"
    }  # fmt: skip


def test_the_cost_of_a_training_and_of_its_start_are_those_of_the_log(finished, report):
    assert report["models"]["masked"]["cost"] == {
        "steps": 5, "tokens": 70, "tflop": 1200.0, "before": {"steps": 9, "tokens": 90, "tflop": 34.0}
    }  # fmt: skip
    assert report["models"]["AR"]["cost"] is None
    assert "| 1,200 (+ 34 before) |" in (finished / "report.md").read_text(encoding="utf-8")


def test_likelihoods_are_those_of_the_models(place, report):
    model, tokenizer = load_arm(place / "ar")
    rows = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in TEXTS]
    pad = tokenizer.pad_token_id
    exact = corpus_nll(model.eval(), rows[:6], pad_token_id=pad)
    assert report["models"]["AR"]["likelihood"]["nats_per_token"] == pytest.approx(exact.nats_per_token, rel=1e-5)
    assert report["models"]["AR"]["exact"] is None
    for label, folder in (("masked", "mdlm"), ("in blocks", "block")):
        model = load_arm(place / folder)[0].eval()
        own, kept = report["models"][label], {"canvas_length": LENGTH, "pad_token_id": pad}
        generator = torch.Generator().manual_seed(0)
        bound = corpus_nelbo(model, rows[:6], num_samples=4, generator=generator, **kept)
        assert own["likelihood"]["nats_per_token"] == pytest.approx(bound.nats_per_token, rel=1e-5)
        assert own["likelihood"]["standard_error"] == pytest.approx(bound.standard_error, rel=1e-4)
        policy = corpus_policy_nll(model, rows[:3], stop_at_eos=True, **kept)
        assert own["exact"]["nats"] == pytest.approx(policy.nats, rel=1e-5)
        num_bytes = sum(len(text.encode()) for text in TEXTS[:6])
        bits = bound.nats_per_story * 6 / math.log(2) / num_bytes
        assert own["likelihood"]["bits_per_byte"] == pytest.approx(bits, rel=1e-5)


def test_rows_are_those_of_the_texts(place, report):
    assert [(row["label"], row["steps"]) for row in report["rows"]] == [
        ("AR", None), ("masked", 3), ("masked", 6), ("in blocks", 3), ("in blocks", 6)
    ]  # fmt: skip
    twin = load_judge(str(place / "ar"), cuts=True)
    for row in report["rows"]:
        name = f"texts-{row['label'].replace(' ', '-')}" + (f"-{row['steps']}" if row["steps"] else "")
        texts = report["cells"][name]["texts"]
        assert len(texts) == 4
        assert row["story"] == texts[0]
        assert row["generative_perplexity"] == pytest.approx(twin.score(texts).generative_perplexity, rel=1e-4)
        assert set(row["stories_per_second"]) == {"1", "3"}
    assert report["reference"]["distinct_openings"] > 0
    assert report["judge"]["id"] == "ar"


def test_the_report_says_what_is_exact_and_of_how_many(place, finished, report):
    text = (finished / "report.md").read_text(encoding="utf-8")
    assert "| AR † | autoregressive | – |" in text  # texts under 20 words
    assert "| in blocks † | block of 8 | – | ≤ " in text
    assert "| real stories |" in text
    assert "4 unprompted stories a row" in text
    assert "of the first 3 of these stories" in text
    assert "**NLL** of 6 stories of held_out.jsonl" in text
    assert str(place) not in text + json.dumps(report)
    assert (finished / "frontier.png").stat().st_size > 10_000


def test_block_models_write_with_their_cache_and_the_checkpoints_sampler(finished):
    planned = json.loads((finished / "study.json").read_text(encoding="utf-8"))["jobs"]
    options = {job["name"]: job["settings"]["options"] for job in planned if job["kind"] == "texts"}
    assert options["texts-in-blocks-6"]["prefix_cache"] is True
    assert "prefix_cache" not in options["texts-masked-6"]
    assert options["texts-AR"]["use_cache"] is True
    assert not any("sampler" in own for own in options.values())


@pytest.mark.filterwarnings("ignore:data has")
def test_families_without_an_order_and_with_random_ones(place, tmp_path):
    words = ["--models", *(f"{name[0]}={place / name}" for name in ("uniform", "eso", "mdlm"))]
    assert run(place, tmp_path / "out", "--judge", "none", "--steps", "3", "--batch_sizes", "2", *words) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["models"]["u"]["exact"] is None
    assert report["models"]["u"]["likelihood"]["nats_per_token"] > 0
    assert set(report["comparisons"]["exact"]) == set(report["comparisons"]["own"]) == {"m"}
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert [line.count("bound only") for line in text.splitlines() if line.startswith("| u † | uniform")] == [1]
    model, tokenizer = load_arm(place / "eso")
    rows = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in TEXTS[:3]]
    canvases = torch.full((3, LENGTH), tokenizer.pad_token_id)
    for canvas, row in zip(canvases, rows, strict=True):
        canvas[: len(row)] = torch.tensor(row)
    found = order_nll(model.eval(), canvases, num_orders=16, generator=torch.Generator().manual_seed(0))
    assert report["models"]["e"]["exact"]["nats"] == pytest.approx(found.importance_weighted.tolist(), rel=1e-5)
    assert [line.split(" | ")[4][:2] for line in text.splitlines() if line.startswith("| e † | eso")] == ["≤ "]
    assert "from 16 of them a story" in text
    assert "No judge." in text
    assert "give `--references FILE`" in text


def test_a_failed_job_leaves_a_gap_and_is_named(place, tmp_path, monkeypatch, capsys):
    def broken(settings, inputs, folder):
        raise RuntimeError("no likelihood today")

    monkeypatch.setattr(own_jobs, "exact", broken)
    output = tmp_path / "out"
    assert run(place, output, "--judge", "none", "--steps", "3", "--batch_sizes", "2") == 1
    text = (output / "report.md").read_text(encoding="utf-8")
    assert "## What is missing" in text
    assert "no likelihood today" in text
    assert "not in it: exact-masked" in capsys.readouterr().out


def score(nats, tokens):
    return {"nats": nats, "tokens": tokens, "nats_per_token": sum(nats) / sum(tokens)}


def test_differences_are_of_the_same_stories():
    models = {
        "AR": {"is_bound": False, "likelihood": score([10.0, 20, 30, 40], [10] * 4), "exact": None},
        "a": {
            "is_bound": True,
            "likelihood": score([12.0, 22, 32, 42], [10] * 4),
            "exact": score([11.0, 21], [10] * 2) | {"num_orders": None},
        },
        "b": {
            "is_bound": True,
            "likelihood": score([15.0, 25, 35, 45], [10] * 4),
            "exact": score([9.0, 9], [10] * 2) | {"num_orders": 4},
        },
    }
    speeds = {"AR": {"rates": [1.5, 2.0, 2.5], "calls": 3}, "a": {"rates": [5.0, 6.0, 7.0], "calls": 3},
              "b": {"rates": [9.0], "calls": 1}}  # fmt: skip
    rows = [
        {"label": label, "steps": None if label == "AR" else 4, "stories_per_second": {"1": own}}
        for label, own in speeds.items()
    ]
    found = compare(models, rows, seed=0)
    assert found["bounds"]["lowest"] == "a"
    assert found["bounds"]["above"]["b"]["estimate"] == pytest.approx(0.3)
    assert found["bounds"]["above"]["b"]["low"] == pytest.approx(0.3)
    assert found["exact"]["a"]["estimate"] == pytest.approx(0.1)
    assert found["exact"]["a"]["stories"] == 2
    assert found["own"]["a"]["estimate"] == pytest.approx(-0.1)
    (faster,) = found["faster"]
    assert (faster["label"], faster["estimate"]) == ("a", pytest.approx((5 * 6 * 7 / 7.5) ** (1 / 3)))
    assert 1 < faster["low"] < faster["estimate"] < faster["high"]


def null_report(rng, num_models=3, stories=40):
    """A report on models that do not differ in anything, beside real stories that do not differ either."""
    models, rows, ease = {}, [], rng.normal(100, 30, size=stories)

    def likelihood(count):
        return score((ease[:count] + rng.normal(0, 20, size=count)).tolist(), [50] * count)

    def around(middle, deviation):
        value = rng.normal(middle, deviation)
        return value, [value - 1.96 * deviation, value + 1.96 * deviation]

    for label in ("AR", *(f"m{number}" for number in range(num_models))):
        is_bound = label != "AR"
        models[label] = {"is_bound": is_bound, "likelihood": likelihood(stories),
                         "exact": likelihood(stories) | {"num_orders": None} if is_bound else None}  # fmt: skip
        perplexity, openings = around(4.0, 0.1), around(0.5, 0.05)
        rates = np.exp(rng.normal(0, 0.1, size=3))
        rows.append({"label": label, "steps": 8 if is_bound else None,
                     "generative_perplexity": math.exp(perplexity[0]), "generative_perplexity_ci": np.exp(perplexity[1]).tolist(),
                     "distinct_openings": openings[0], "distinct_openings_ci": openings[1], "unigram_entropy_nats": 4.0,
                     "stories_per_second": {"1": {"rates": rates.tolist(), "calls": 3}}})  # fmt: skip
    openings = around(0.5, 0.05)
    return {"models": models, "rows": rows, "comparisons": compare(models, rows, seed=0), "judged_by_twin": False,
            "reference": {"distinct_openings": openings[0], "distinct_openings_ci": openings[1]},
            "settings": {"batch_sizes": [1]}}  # fmt: skip


def test_where_nothing_differs_few_reports_say_that_something_does():
    """No more than 5 of 100 reports have any sentence, however many comparisons they look at; and a true difference is said."""
    rng = np.random.default_rng(0)
    said = ["decide nothing" not in " ".join(summary_lines(null_report(rng))) for _ in range(60)]
    assert sum(said) <= 60 * 0.05 + 2 * math.sqrt(60 * 0.05 * 0.95)
    report = null_report(rng)
    report["rows"][1] |= {"generative_perplexity": 900.0, "generative_perplexity_ci": [800.0, 1000.0]}
    assert "m0 900.0 (800.0 to 1000.0)" in " ".join(summary_lines(report))
    report["rows"][1]["poor"] = "worse than a bigram"
    assert "m0" not in " ".join(summary_lines(report))


@pytest.mark.filterwarnings("ignore:data has")
def test_the_published_figures_are_those_of_the_published_texts(finished, tmp_path, capsys):
    publish(finished / "report.md", tmp_path / "page", FILES)
    assert figures_command([str(tmp_path / "page.jsonl.gz")]) == 0
    said = capsys.readouterr().out
    assert " figures of 10 jobs compared, 0 differ" in said  # five likelihoods, and the texts of five rows
    assert "sha256" in gzip.decompress((tmp_path / "page.jsonl.gz").read_bytes()).decode()
