"""The benchmarks compare like with like: the same loss, the same text, and a report that has everything in it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(REPOSITORY))


def tiny(**changes) -> MDLMForMaskedDiffusion:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "mask_token_id": 39}
    config = MDLMConfig(vocab_size=40, max_position_embeddings=32, initializer_range=0.5, **shape | ids | changes)
    return MDLMForMaskedDiffusion(config).eval()


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_word_embeddings": True},
        {"time_conditioning": "additive", "noise_schedule": "cosine", "output_vocab_size": 39},
    ],
)
def test_the_paper_s_step_computes_our_loss_and_gradient(changes):
    from benchmarks.naive import masked_mean_loss
    from benchmarks.train_step import make_batch, our_loss

    model = tiny(**changes)
    batch = make_batch(model.config, 4, 24, "cpu")
    ours = our_loss(model, batch.mdlm_inputs, batch.mdlm_denominator)
    ours.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    naive = masked_mean_loss(model, batch.mdlm_inputs["input_ids"], batch.clean, batch.mdlm_inputs["timesteps"])
    naive.backward()

    assert naive.item() == pytest.approx(ours.item(), abs=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=1e-4, msg=name)


def test_the_paper_s_ar_step_computes_our_loss():
    from transformers import LlamaConfig, LlamaForCausalLM

    from benchmarks.naive import next_token_loss
    from benchmarks.train_step import make_batch, our_loss

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=40, **shape))
    batch = make_batch(tiny().config, 4, 24, "cpu")

    ours = our_loss(model, batch.ar_inputs, batch.ar_denominator)
    assert next_token_loss(model, **batch.ar_inputs).item() == pytest.approx(ours.item(), abs=1e-5)


@pytest.mark.parametrize("steps", [5, 23, 40])
def test_the_paper_s_loop_writes_what_our_sampler_arche_writes(steps):
    from benchmarks.naive import sample

    model = tiny(time_conditioning="additive", noise_schedule="cosine", output_vocab_size=39).double()
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None  # nothing ends a text
    options = {"sampler": "arche", "do_sample": False, "temperature": 0.8, "num_diffusion_steps": steps}
    ours = model.generate(torch.tensor([[0]]), max_new_tokens=23, **options)

    assert sample(model, [0], 24, steps) == ours[0].tolist()
    drawn = sample(model, [0], 24, steps, generator=torch.Generator().manual_seed(0))
    assert len(drawn) == 24
    assert model.config.mask_token_id not in drawn


@pytest.mark.parametrize(("steps", "block_length"), [(24, 24), (7, 24), (9, 8), (12, 6)])
def test_llada_s_loop_writes_what_our_sampler_confidence_writes(steps, block_length):
    from benchmarks.open_models import without_end, writing

    prompts = torch.randint(2, 39, (3, 4), generator=torch.Generator().manual_seed(0))
    made = writing(without_end(tiny().double()), prompts, 24, steps, block_length)
    assert made["ours"]().tolist() == made["theirs"]().tolist()


def test_llada_s_likelihood_estimates_our_bound():
    from arche_mdlm.metrics.likelihood import nelbo
    from benchmarks import llada

    model, row = tiny(), torch.randint(2, 39, (12,), generator=torch.Generator().manual_seed(0))
    given = (torch.arange(12) < 4)[None]
    ours = nelbo(model, row[None], condition_mask=given, num_samples=512, generator=torch.Generator().manual_seed(1))
    # A batch's estimates hang together; batches do not.
    theirs = llada.answer_nats(model, row, 4, 2048, 16, torch.Generator().manual_seed(2)).view(-1, 16).mean(1)
    error = (float(ours.standard_error[0]) ** 2 + float(theirs.var()) / len(theirs)) ** 0.5
    assert abs(float(ours.nats[0]) - float(theirs.mean())) < 4 * error


def test_a_run_over_open_models_reports_every_comparison(tmp_path):
    from benchmarks.open_models import main

    tiny().save_pretrained(tmp_path / "model")
    sizes = ["--batch_size", "2", "--length", "8", "--steps", "4", "--block_length", "4", "--draws", "4"]
    output = tmp_path / "open_models.json"
    assert main(["--model", str(tmp_path / "model"), *sizes, "--device", "cpu", "--output", str(output)]) == 0
    report = json.loads(output.read_text(encoding="utf-8"))
    names = ["confidence_canvas_vs_llada", "confidence_blocks_vs_llada", "answer_nelbo_vs_llada"]
    assert [result["name"] for result in report["results"]] == names
    assert all(result["ratio"] > 0 for result in report["results"])


@pytest.mark.long
def test_a_quick_run_reports_every_comparison(tmp_path):
    output = tmp_path / "results" / "latest.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "--quick",
        "--threads",
        "1",
        "--device",
        "cpu",
        "--output",
        str(output),
    ]
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr

    report = json.loads(output.read_text(encoding="utf-8"))
    results = {result["name"]: result for result in report["results"]}
    assert set(results) == {
        "train_step_vs_naive", "ar_train_step_vs_naive", "ar_train_step_vs_transformers", "mdlm_vs_ar_tokens_per_s",
        "mdlm_vs_ar_tokens_per_s_stories",
        "train_memory_vs_naive", "sampling_2_steps_vs_ar_cached", "ancestral_vs_naive",
        "nelbo_vs_naive", "self_bleu_vs_pairwise", "tokenise_vs_tokenizers", "import_vs_torch_transformers", "load_vs_ar",
    }  # fmt: skip
    for name, result in results.items():
        assert 0 < result["low"] <= result["ratio"] <= result["high"], name
        assert result["ours"] > 0
        assert result["reference"] > 0
        alone = "memory" in name or "import" in name or "load" in name  # a process each time: once in a quick run
        assert result["rounds"] == (1 if alone else 5), name
        assert result["command"].startswith("python -m benchmarks --quick")
        assert name in process.stdout
    assert set(report["throughput"]) == {
        "mdlm", "mdlm_stories", "mdlm_paper", "ar", "ar_stories", "ar_paper", "ar_transformers"
    }  # fmt: skip
    assert report["settings"]["quick"] is True
    assert report["settings"]["rounds"] >= 5
    assert {"machine", "versions", "commit"} <= set(report)
    assert report["settings"]["dtype_of_ours"] in ("float32", "bfloat16")


def test_a_full_batch_has_a_token_at_every_position():
    from benchmarks.train_step import make_batch

    batch = make_batch(tiny().config, 4, 24, "cpu", "full")
    assert batch.num_tokens == batch.ar_denominator == 4 * 23
    assert batch.ar_inputs["input_ids"].shape == batch.mdlm_inputs["input_ids"].shape == (4, 24)
    assert not (batch.clean == 1).any()


def test_fewer_than_five_rounds_are_refused(capsys):
    from benchmarks.__main__ import main

    with pytest.raises(SystemExit):
        main(["--rounds", "4"])
    assert "--rounds 4 is less than 5" in capsys.readouterr().err


def test_the_ratio_is_taken_round_by_round():
    from benchmarks.timing import compare

    assert compare([2.0, 4.0, 9.0], [1.0, 1.0, 3.0]) == (3.0, 2.0, 4.0)


def test_a_small_run_of_the_samplers_reports_each(tmp_path, capsys):
    from arche_mdlm import available_samplers
    from benchmarks.samplers import main

    output = tmp_path / "samplers.json"
    shape = ["--vocab_size", "60", "--hidden_size", "16", "--intermediate_size", "32", "--num_hidden_layers", "1"]
    sizes = ["--num_attention_heads", "2", "--batch_size", "2", "--length", "8", "--steps", "4", "--few_steps", "2"]

    assert main([*shape, *sizes, "--device", "cpu", "--output", str(output)]) == 0

    results = {result["name"]: result for result in json.loads(output.read_text(encoding="utf-8"))["results"]}
    assert set(results) == {f"{name}_vs_naive" for name in available_samplers()} | {"sampling_2_steps_vs_ar_cached"}
    assert all(0 < result["low"] <= result["ratio"] <= result["high"] for result in results.values())
    assert "written to" in capsys.readouterr().out


@pytest.mark.long
def test_scaling_measures_speed_and_memory_of_each_line(tmp_path, monkeypatch):
    from benchmarks import scaling

    small = {"batch_size": 2, "length": 16, "hidden_size": 32, "vocab_size": 64, "num_hidden_layers": 1}
    monkeypatch.setitem(scaling._CENTRES, "cpu", small)
    monkeypatch.setitem(scaling._AXES, "cpu", {"vocab_size": [64, 96]})
    output = tmp_path / "scaling.json"
    assert (
        scaling.main(
            ["--device", "cpu", "--axes", "vocab_size", "--points", "1", "--steps", "1", "--output", str(output)]
        )
        == 0
    )
    found = json.loads(output.read_text(encoding="utf-8"))["axes"]["vocab_size"]
    assert found["at"] == [64]
    assert len(found["lines"]) == 3
    assert all(value["tokens_per_second"] > 0 for values in found["lines"].values() for value in values)
    assert all(value["peak_bytes"] > 0 for values in found["lines"].values() for value in values)
    assert output.with_suffix(".png").stat().st_size > 5_000


def test_variants_are_compared_and_what_cannot_run_is_named(tmp_path, capsys):
    from benchmarks.variants import main

    output = tmp_path / "variants.json"
    options = ["--quick", "--device", "cpu", "--arms", "mdlm", "--attentions", "eager", "flash_attention_2", "--modes"]
    assert main([*options, "--output", str(output)]) == 0
    report = json.loads(output.read_text(encoding="utf-8"))
    assert [result["name"] for result in report["results"]] == ["mdlm: sdpa", "mdlm: eager"]
    assert report["results"][0]["ratio"] == 1.0
    assert list(report["settings"]["failed"]["mdlm"]) == ["flash_attention_2"]
    assert "mdlm: flash_attention_2 does not run here: ImportError" in capsys.readouterr().out


def test_a_profile_names_operations(tmp_path):
    from benchmarks.profile import main

    output = tmp_path / "profile.md"
    assert main(["--quick", "--device", "cpu", "--output", str(output)]) == 0
    text = output.read_text(encoding="utf-8")
    assert "## MDLM, the paper's way" in text
    assert "`aten::" in text
    assert str(tmp_path) not in text


@pytest.mark.long
def test_the_memory_of_preparing_data_is_measured_in_children(tmp_path):
    from benchmarks.data_memory import main

    output = tmp_path / "data_memory.json"
    sizes = ["--gigabytes", "0.0005", "--layouts", "packed", "--workers", "1", "--folder", str(tmp_path)]

    assert main([*sizes, "--output", str(output)]) == 0

    report = json.loads(output.read_text(encoding="utf-8"))
    results = {result["name"]: result for result in report["results"]}
    measured = report["settings"]["measured"]["packed"]
    assert set(results) == {
        "prepare_packed_vs_tokenizers", "prepare_packed_vs_tokenizers_cpu", "prepare_packed_memory", "start_packed_memory",
    }  # fmt: skip
    assert 500_000 <= report["settings"]["text_bytes"] < 510_000
    assert measured["prepare"]["bytes"] == report["settings"]["text_bytes"], "all of it was read"
    assert measured["prepare"]["rows"] == measured["start"]["rows"], "and found again in the cache"
    for name in ("prepare", "start"):
        assert results[f"{name}_packed_memory"]["ours"] == measured[name]["peak_bytes"]
        assert measured[name]["peak_bytes"] > measured[name]["own_bytes"] > 5e7
    assert str(tmp_path) not in output.read_text(encoding="utf-8")


def test_text_without_a_story_is_refused(tmp_path):
    from benchmarks.data_memory import make_file

    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"a\.jsonl does not contain a story"):
        make_file(tmp_path / "b.jsonl", str(tmp_path / "a.jsonl"), 10)
