"""The paper's protocol on tiny models: every cell of the factor table, our rows beside the paper's."""

import json

import pytest
import torch

from arche_mdlm import available_samplers, samplers_mdlm
from arche_mdlm.commands.main import main
from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.metrics.diversity import diversity
from arche_mdlm.studies.arche.effects import contrasts, effects, sentences
from arche_mdlm.studies.arche.factors import PAPER
from arche_mdlm.studies.arche.jobs import plain_sampler
from arche_mdlm.studies.arche.plan import build_plan
from arche_mdlm.studies.arche.settings import ArcheSettings
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
    assert "41 jobs, 0 of them done" in capsys.readouterr().out
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
    assert "comparisons that this report looks at" in printed
    assert report["training_commands"]["train-ar-rows"].startswith(
        "arche-mdlm train --preset arche-paper-ar --data stories"
    )
    for arm, variant in (("ar", "once"), ("mdlm", "penalty")):
        cell = f"{arm}-windows-short-{variant}"  # the paper's own
        path = folder.path(f"sample-{cell}") / "samples.jsonl"
        texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
        assert all(text.startswith("Once") for text in texts) or arm == "mdlm"
        with pytest.warns(UserWarning, match="texts"):
            expected = diversity(texts, protocol="arche")
        assert folder.result(f"metrics-{cell}")["self_bleu"] == expected["self_bleu"]
    once = folder.path("sample-ar-rows-training-once") / "samples.jsonl"
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
