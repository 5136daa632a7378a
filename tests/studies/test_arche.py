"""The paper's protocol on tiny models: every cell of the factor table, our rows beside the paper's."""

import json
import math

import numpy as np
import pytest
import torch

from arche_mdlm import available_samplers, samplers_mdlm
from arche_mdlm.commands.main import main
from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.metrics.diversity import diversity
from arche_mdlm.studies.arche.effects import contrasts, decided_sentences, effects, sentences
from arche_mdlm.studies.arche.factors import PAPER, VARIANTS
from arche_mdlm.studies.arche.jobs import plain_sampler
from arche_mdlm.studies.arche.plan import build_plan
from arche_mdlm.studies.arche.report import _sections
from arche_mdlm.studies.arche.settings import ArcheSettings
from arche_mdlm.studies.arche.summary import summary
from arche_mdlm.studies.engine.jobs import StudyFolder

TINY = {
    "data.tokenizer": "bpe",
    "data.vocab_size": 280,
    "data.context_length": 32,
    "data.min_characters": 1,
    "data.validation_fraction": 0.2,
    "model.config.vocab_size": 280,
    "model.config.hidden_size": 16,
    "model.config.intermediate_size": 32,
    "model.config.num_hidden_layers": 1,
    "model.config.num_attention_heads": 2,
    "model.config.max_position_embeddings": 32,
    "training.batch_size": 4,
    "training.warmup_steps": 1,
    "training.log_every": 1,
}


@pytest.fixture(scope="module", autouse=True)
def _own_registry():
    """The study registers its own sampler, separate from the library's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samplers_mdlm, "_SAMPLERS", {k: dict(v) for k, v in samplers_mdlm._SAMPLERS.items()})
        yield


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arche")
    texts = [f"Once {n} {v} {w} and was happy." for n in ("Tim", "Sue", "Ann") for v in ("ran", "sat", "hid", "saw")
             for w in ("home", "to me", "a cat", "red", "again")]  # fmt: skip
    (folder / "stories.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHE_MDLM_CACHE", str(folder / "cache"))
        yield folder


def settings(workplace, **changes) -> ArcheSettings:
    own = {"data": str(workplace / "stories.jsonl"), "max_steps": 2, "num_samples": 4, "short_length": 10,
           "num_diffusion_steps": 3, "changes": tuple(f"{key}={value}" for key, value in TINY.items())}  # fmt: skip
    return ArcheSettings(**own | changes)


def test_end_to_end(workplace, tmp_path, capsys, monkeypatch):
    # The presets' MDLM arm has 50,258 entries in, 50,257 out: not with the tiny tokenizer.
    import arche_mdlm.studies.arche.settings as protocol
    import arche_mdlm.training.plan as training

    def load(name, changes=None):
        own = {"model.config.output_vocab_size": 280} if name.endswith("mdlm") else {}
        return load_preset(name, (changes or {}) | own)

    monkeypatch.setattr(protocol, "load_preset", load)
    monkeypatch.setattr(training, "load_preset", load)
    own = settings(workplace)
    output = tmp_path / "study"
    command = ["study", "arche", "--data", own.data, "--output", str(output), "--max_steps", "2", "--num_samples", "4",
               "--short_length", "10", "--num_diffusion_steps", "3", "--workers", "0",
               *(word for change in own.changes for word in ("--set", change))]  # fmt: skip
    assert main([*command, "--dry_run"]) == 0
    assert "47 jobs, 0 of them done" in capsys.readouterr().out
    assert main([*command, "--publish", str(tmp_path / "results" / "protocol")]) == 0
    page = (tmp_path / "results" / "protocol.md").read_text(encoding="utf-8")
    assert "](protocol/factors.png)" in page
    assert (tmp_path / "results" / "protocol" / "factors.png").is_file()
    assert json.loads((tmp_path / "results" / "protocol.json").read_text(encoding="utf-8"))["cells"]
    assert "`protocol.json`" in page
    printed = capsys.readouterr().out
    assert "| AR, the paper | 123,551,232 | 1.589 | 14,000 | 1.622 |" in printed
    assert "| MDLM, the paper | 0.058 | 0.297 | 0.542 | 0.690 | 0.334 | 36.1% | 93.4% | 5,754 | 99.2 |" in printed
    assert "| AR, ours |" in printed

    plan = build_plan(own)
    folder = StudyFolder(output, plan)
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert len(report["cells"]) == 16
    assert all(cell["figures"] for cell in report["cells"])
    assert (output / "factors.png").stat().st_size > 10_000
    # Two steps of training and texts of ten tokens: all is marked, and nothing is said.
    assert all(cell["poor"] for cell in report["cells"] if cell["length"] == "short")
    assert "Nothing: each arm has a missing or a marked cell." in printed
    assert "| windows † | short | once |" in printed
    for layout in ("windows", "rows"):
        fit = report["fit"][layout]
        assert 0 < fit["bigram"] < fit["ar"]["estimate"]
        assert fit["bigram"] < fit["mdlm"]["estimate"]
        assert "worse than an interpolated bigram" in report["poor"][f"AR, {layout}"]
    assert report["training_commands"]["train-ar-rows-s42"].startswith(
        "arche-mdlm train --preset arche-paper-ar --data stories"
    )
    for arm, variant in (("ar", "once"), ("mdlm", "penalty")):
        cell = f"{arm}-windows-short-{variant}-s42"  # the paper's own
        path = folder.path(f"sample-{cell}") / "samples.jsonl"
        texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
        assert all(text.startswith("Once") for text in texts) or arm == "mdlm"
        with pytest.warns(UserWarning, match="texts"):
            expected = diversity(texts, protocol="arche")
        assert folder.result(f"metrics-{cell}")["self_bleu"] == expected["self_bleu"]
    once = folder.path("sample-ar-rows-training-once-s42") / "samples.jsonl"
    assert all(json.loads(line)["text"].startswith("Once") for line in once.read_text(encoding="utf-8").splitlines())
    assert str(tmp_path) not in json.dumps(report)


def test_effects_of_the_factors():
    """The paper's level minus the other one, over the four cells of the other two factors."""

    def cell(layout, length, variant, half=0.02):
        value = 0.1 + 0.5 * (variant == "free") + 0.1 * (layout == "rows") * (length == "short")
        return {
            "arm": "ar",
            "layout": layout,
            "length": length,
            "variant": variant,
            "figures": {"distinct_openings": value, "distinct_openings_ci": [value - half, value + half]},
        }

    cells = [cell(a, b, c) for a in ("windows", "rows") for b in ("short", "training") for c in ("once", "free")]
    layout, length, variant = effects(cells, "ar", "distinct_openings")
    assert variant["mean"] == pytest.approx(-0.5)
    assert (variant["low"], variant["high"]) == (pytest.approx(-0.5), pytest.approx(-0.5))
    assert layout["mean"] == pytest.approx(-0.05)
    assert (layout["low"], layout["high"]) == (pytest.approx(-0.1), pytest.approx(0))
    assert length["mean"] == pytest.approx(0.05)
    said = " ".join(sentences(cells))
    assert '"Once" forced instead of free start -50.0%' in said
    assert 'What lowers it most is "Once" forced.' in said
    assert "Of 6 comparisons" in said
    rough = [
        cell(a, b, c, half=0.9) for a in ("windows", "rows") for b in ("short", "training") for c in ("once", "free")
    ]
    assert "most is" not in " ".join(sentences(rough))
    assert "**AR**" not in " ".join(sentences(rough))
    cells[0]["figures"] = None
    assert effects(cells, "ar", "distinct_openings") == []
    assert sentences(cells) == []


# ------------------------------------------------------------------ made cells, marks, seeds


def made(value_of, seeds=("0",), arm="ar"):
    """All cells of an arm, of openings `value_of(layout, length, variant, seed)`, as the summary has them."""
    jobs, results = {}, {}
    for layout in ("windows", "rows"):
        for length in ("short", "training"):
            for variant in VARIANTS[arm]:
                for seed in seeds:
                    name = f"metrics-{arm}-{layout}-{length}-{variant}-s{seed}"
                    value, half = value_of(layout, length, variant, seed)
                    jobs[name] = {"arm": arm, "layout": layout, "length": length, "variant": variant, "seed": int(seed)}
                    results[name] = {"distinct_openings": value, "distinct_openings_ci": [value - half, value + half],
                                     "median_words": 50.0}  # fmt: skip
    return {"cells": jobs, "seeds": [int(seed) for seed in seeds]}, results


def test_cells_are_means_over_seeds():
    values = {"0": 0.2, "1": 0.4, "2": 0.9}
    own, results = made(lambda a, b, c, seed: (values[seed], 0.01), seeds=tuple(values))
    for cell in summary(own, results)["cells"]:
        assert cell["figures"]["distinct_openings"] == pytest.approx(0.5)
        # Student's t of 3 values, standard deviation sqrt(0.13): 4.3027 * 0.36056 / sqrt(3).
        low, high = cell["figures"]["distinct_openings_ci"]
        assert (high - low) / 2 == pytest.approx(0.89568, abs=1e-4)
        assert set(cell["seeds"]) == set(values)
    del results["metrics-ar-rows-short-once-s1"], results["metrics-ar-rows-short-once-s2"]
    cells = summary(own, results)["cells"]
    assert [cell["length"] for cell in cells if cell["figures"] is None] == ["short"], (
        "one seed has no interval over seeds"
    )


def test_over_seeds_an_effect_needs_the_seeds_to_agree():
    def of(free, all_cells):
        def value(layout, length, variant, seed):
            return 0.5 + (0.3 + free[int(seed)]) * (variant == "free") + all_cells[int(seed)], 1e-6

        return summary(*made(value, seeds=("0", "1", "2")))["cells"]

    (line,) = decided_sentences(of((-0.01, 0.0, 0.01), (0, 0, 0)))
    assert '"Once" forced instead of free start -30.0%' in line
    # Intervals over texts are narrow in all; here the seeds disagree.
    assert decided_sentences(of((-0.5, 0.0, 0.5), (0, 0, 0))) == []
    # What all cells of a seed share says nothing of an effect.
    assert len(decided_sentences(of((-0.01, 0.0, 0.01), (-0.5, 0.0, 0.5)))) == 1


def test_the_page_of_several_seeds():
    """Means, their intervals over seeds, and a cell that failed in one of two seeds."""
    own, results = {"cells": {}, "seeds": [0, 1]}, {}
    for arm in VARIANTS:
        cells, figures = made(lambda a, b, c, seed: (0.2 + 0.1 * int(seed), 0.01), ("0", "1"), arm)
        own["cells"] |= cells["cells"]
        results |= figures
    del results["metrics-ar-rows-short-once-s1"]
    run = {
        "parameters": 10,
        "steps": 4,
        "best_step": 4,
        "tokens": 60,
        "supervised": 60,
        "device": "x",
        "versions": {},
        "history": [],
    }
    results |= {f"train-ar-windows-s{seed}": run | {"seconds": 60.0 * (seed + 1)} for seed in (0, 1)}
    results |= {f"validation-ar-windows-s{seed}": {"loss_best": 2.0 + seed, "loss_last": 3.0 + seed} for seed in (0, 1)}
    results |= {f"likelihood-ar-rows-s{seed}": {"nats_per_token": 3.0 + seed} for seed in (0, 1)}
    found = summary(own, results)
    paper = json.loads(PAPER.read_text(encoding="utf-8"))
    about = {
        "settings": vars(ArcheSettings()),
        "paper": paper,
        "failed": {},
        "command": "",
        "data_hash": "",
        "training_commands": {},
    }
    page = "\n".join(
        _sections(
            found | about | {"seeds": ["0", "1"], "contrasts": contrasts(found["cells"], "distinct_openings")}, {}
        )
    )
    assert "seeds 0, 1 (figures are means over them)" in page
    assert "2 seeds, at the scale of the preset." in page
    assert "| AR, ours | 10 | 2.500 | 4 | 3.500 | 1 | 1.5 |" in page  # 60 tokens in 90 seconds
    assert "| rows | 3.5000 (-2.8531 to 9.8531) | – | – |" in page  # Student's t of 2 values: 12.706 * 0.5
    assert "25.0% (-38.5% to 88.5%)" in page
    assert "| rows | short | once | – |" in page


def test_what_is_worse_than_a_bigram_or_short_is_marked_and_in_no_sentence():
    own, results = made(lambda a, b, c, seed: (0.5 + 0.3 * (c == "free"), 0.01))
    results |= {"bigram-rows": {"nats_per_token": 3.0}, "bigram-windows": {"nats_per_token": 3.0}}
    results |= {f"likelihood-ar-{layout}-s0": {"nats_per_token": 2.9} for layout in ("rows", "windows")}
    whole = summary(own, results)
    assert whole["poor"] == {}
    assert len(decided_sentences(whole["cells"])) == 1

    worse = summary(own, results | {"likelihood-ar-windows-s0": {"nats_per_token": 3.1}})
    assert worse["poor"] == {"AR, windows": "3.10 nats a token, worse than an interpolated bigram's 3.00"}
    assert [bool(cell["poor"]) for cell in worse["cells"]] == [True] * 4 + [False] * 4
    assert sentences(worse["cells"]) == []

    name = "metrics-ar-rows-training-free-s0"
    short = summary(own, results | {name: results[name] | {"median_words": 19.0}})
    assert short["poor"] == {"AR, rows, full length, free start": "its median text has 19 words, under 20"}
    assert sum(bool(cell["poor"]) for cell in short["cells"]) == 1
    assert sentences(short["cells"]) == []


@pytest.mark.parametrize("seeds", [("0",), ("0", "1", "2")])
def test_where_the_factors_change_nothing_few_reports_say_that_something_does(seeds):
    """Every cell has the same share of openings: of 100 texts with one seed, with noise of the training with several."""
    rng = np.random.default_rng(0)

    def noisy(*cell):
        if len(seeds) > 1:
            return rng.normal(0.5, 0.05), 0.01
        share = rng.binomial(100, 0.5) / 100
        return share, 1.96 * math.sqrt(share * (1 - share) / 100)

    said = 0
    for _ in range(100):
        cells = [cell for arm in VARIANTS for cell in summary(*made(noisy, seeds, arm))["cells"]]
        said += bool(decided_sentences(cells))
    assert said <= 0.05 * 100 + 2 * math.sqrt(100 * 0.05 * 0.95)


def test_several_seeds_in_the_plan(workplace):
    """Each seed trains and samples on its own; the bigrams are of the data alone. The first seed's jobs are those of it alone."""
    one, three = (
        build_plan(settings(workplace, preset="arche-mini", changes=(), **own))
        for own in ({"seed": 5}, {"seeds": (5, 6, 7)})
    )
    assert (len(one), len(three)) == (2 + 44 + 1, 2 + 3 * 44 + 1)
    assert all(three.keys[job.name] == one.keys[job.name] for job in one if job.name != "summarise")
    sample = three.by_name["sample-mdlm-rows-short-plain-s6"]
    assert (sample.settings["seed"], sample.needs) == (6, ("train-mdlm-rows-s6",))
    assert three.by_name["train-mdlm-rows-s6"].settings["resolved"]["training"]["seed"] == 6


def test_contrasts_set_the_arms_beside_each_other():
    def cell(arm, variant, value, layout="rows"):
        figures = None if value is None else {"distinct_openings": value}
        return {"arm": arm, "layout": layout, "length": "short", "variant": variant, "figures": figures}

    cells = [cell("mdlm", "penalty", 0.9), cell("mdlm", "plain", 0.4), cell("ar", "once", 0.1), cell("ar", "free", 0.5),
             cell("mdlm", "penalty", None, "windows")]  # fmt: skip
    found = {(entry["layout"], entry["length"]): entry for entry in contrasts(cells, "distinct_openings")}
    assert found["rows", "short"]["paper"]["difference"] == pytest.approx(0.8)
    assert found["rows", "short"]["alike"]["difference"] == pytest.approx(-0.1)
    assert found["windows", "short"]["paper"] is None
    assert found["rows", "training"]["alike"] is None


def test_the_penalty_can_be_left_out(build_mdlm):
    model = build_mdlm(vocab_size=12)  # few tokens, so that they come again
    name = plain_sampler()
    assert name in available_samplers()
    assert plain_sampler() == name
    texts = [
        model.generate(max_length=30, sampler=sampler, num_diffusion_steps=29, temperature=0.8,
                       generator=torch.Generator().manual_seed(0))
        for sampler in ("arche", name, name)
    ]  # fmt: skip
    assert torch.equal(texts[1], texts[2])
    assert not torch.equal(texts[0], texts[1])


def test_paper_figures_are_the_table_s():
    paper = json.loads(PAPER.read_text(encoding="utf-8"))["arms"]
    assert set(paper["ar"]) == set(paper["mdlm"])
    assert paper["mdlm"]["parameters"] - paper["ar"]["parameters"] == 39_188_736


def test_bad_settings(workplace):
    with pytest.raises(ValueError, match="short_length=32 must be below data.context_length=32"):
        build_plan(settings(workplace, short_length=32))
    with pytest.raises(ValueError, match="temperature=0"):
        settings(workplace, temperature=0)
    with pytest.raises(ValueError, match="num_samples=1"):
        settings(workplace, num_samples=1)
    with pytest.raises(ValueError, match=r"seeds=\[1, 1\]"):
        settings(workplace, seeds=(1, 1))
