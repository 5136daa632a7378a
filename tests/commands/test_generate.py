"""`arche-mdlm generate`: every option takes effect, and a file written in pieces equals one written in one run."""

import argparse
import json
import os
import shlex
import socket
import subprocess
import sys

import pytest
import torch
import transformers

from arche_mdlm.commands import generate_options
from arche_mdlm.commands.main import main
from arche_mdlm.compiling_mdlm import compile_layers, is_compiled
from arche_mdlm.configuration.settings import ModelSettings
from arche_mdlm.metrics import batch_sizes
from arche_mdlm.training.models.build import build_model
from arche_mdlm.training.models.loading import save_arm, set_generation_defaults
from arche_mdlm.writing import sample_file, stories

ARMS = ("mdlm", "ar")


@pytest.fixture(scope="module")
def arms(tmp_path_factory, tokenizer):
    root = tmp_path_factory.mktemp("arms")
    shape = {"vocab_size": 300, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2, "max_position_embeddings": 32, "tie_word_embeddings": True,
             "initializer_range": 0.3}  # fmt: skip
    for name, architecture in (("mdlm", "mdlm"), ("ar", "llama")):
        torch.manual_seed(0)
        model = build_model(ModelSettings(architecture, shape), tokenizer)
        set_generation_defaults(model, tokenizer, 24)
        save_arm(model, tokenizer, root / name)
    return root


@pytest.fixture
def command(arms, tmp_path):
    def make(arm="mdlm", *extra, output="out.jsonl", samples="10", batch="3"):
        options = ["--prompt", "The cat", "--num_samples", samples, "--batch_size", batch, "--device", "cpu"]
        options += ["--num_diffusion_steps", "3"] if arm == "mdlm" else []
        return ["generate", str(arms / arm), *options, "--output", str(tmp_path / output), *extra]

    return make


def records(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Generate:
    """Records the arguments of the model's `generate`, and answers in its place."""

    def __init__(self, monkeypatch):
        self.calls, fake = [], self

        def generate(model, input_ids, **kwargs):
            fake.calls.append(kwargs)
            sequences = torch.cat([input_ids, torch.full((len(input_ids), 2), 1)], dim=1)
            if not kwargs.get("return_dict_in_generate"):
                return sequences
            return transformers.utils.ModelOutput(
                sequences=sequences,
                num_forward_passes=torch.full((len(input_ids),), 7),
                tokens_per_forward=torch.ones(len(input_ids)),
                tokens_behind_end=torch.zeros(len(input_ids), dtype=torch.long),
            )

        from arche_mdlm import MDLMForMaskedDiffusion

        monkeypatch.setattr(MDLMForMaskedDiffusion, "generate", generate)
        monkeypatch.setattr(transformers.LlamaForCausalLM, "generate", generate)


def stop_after(monkeypatch, batches, error=KeyboardInterrupt):
    """Let the write of one more batch fail."""
    real, count = stories.write_batch, []

    def write_batch(*args, **kwargs):
        count.append(1)
        if len(count) > batches:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(stories, "write_batch", write_batch)


def test_only_what_was_given_is_passed_on(arms, monkeypatch, capsys):
    seen = Generate(monkeypatch).calls
    assert main(["generate", str(arms / "ar")]) == 0
    assert set(seen[0]) == {"attention_mask", "do_sample"}
    assert main(["generate", str(arms / "mdlm"), "--greedy"]) == 0
    assert set(seen[1]) == {"attention_mask", "do_sample", "generator", "return_dict_in_generate"}
    assert seen[1]["do_sample"] is False
    assert "num_forward_passes" not in capsys.readouterr().out


def test_every_option_arrives(arms, tokenizer, monkeypatch, tmp_path):
    seen = Generate(monkeypatch).calls
    values = {
        "max_new_tokens": 5, "temperature": 0.8, "temperature_end": 0.4, "top_k": 9, "top_p": 0.9,
        "repetition_penalty": 1.1, "num_diffusion_steps": 3, "sampler": "confidence", "block_length": 4, "threshold": 0.7,
        "threshold_factor": 0.5, "entropy_bound": 0.2, "remasking": "loop", "remasking_rate": 0.1, "guidance_scale": 1.5,
    }  # fmt: skip
    options = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    extra = [
        "--prefix_cache",
        "--negative_prompt",
        "The dog",
        "--num_samples",
        "2",
        "--output",
        str(tmp_path / "o.jsonl"),
    ]
    assert main(["generate", str(arms / "mdlm"), *options, *extra]) == 0
    (given,) = seen
    assert {name: given[name] for name in values} == values
    assert given["do_sample"] is given["prefix_cache"] is True
    assert given["negative_prompt_ids"].tolist() == [tokenizer("The dog")["input_ids"]] * 2
    assert given["negative_prompt_attention_mask"].bool().all()
    assert [line["num_forward_passes"] for line in records(tmp_path / "o.jsonl")] == [7, 7]


@pytest.mark.parametrize("arm", ARMS)
def test_lines_of_the_file(command, arm, tmp_path, capsys, tokenizer):
    assert main(command(arm, "--prompt", "A bird", samples="2")) == 0
    lines = records(tmp_path / "out.jsonl")
    keys = {"prompt", "text", "seed", "index", "num_tokens", "ended"}
    assert set(lines[0]) == keys | ({"num_forward_passes"} if arm == "mdlm" else set())
    assert [line["index"] for line in lines] == [0, 1, 2, 3]
    assert [line["prompt"] for line in lines] == ["The cat", "The cat", "A bird", "A bird"]
    assert all(line["text"].startswith(line["prompt"]) for line in lines)
    assert len({line["text"] for line in lines}) == 4
    assert "4 texts are in" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.settings.json"]


@pytest.mark.parametrize("arm", ARMS)
def test_an_interrupted_run_goes_on_to_the_same_file(command, arm, tmp_path, monkeypatch, capsys):
    assert main(command(arm, output="whole.jsonl")) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert main(command(arm)) == 130
    said = capsys.readouterr().err
    assert "6 of 10 texts are saved" in said
    assert not (tmp_path / "out.jsonl").exists()
    partial = tmp_path / "out.jsonl.partial"
    assert len(records(partial)) == 6
    # A power cut may tear the last line, and with it its batch.
    partial.write_bytes(partial.read_bytes()[:-20])

    written = []
    real = stories.write_batch
    monkeypatch.setattr(stories, "write_batch", lambda *args: written.append(args[2]) or real(*args))
    resume = next(line for line in said.splitlines() if line.strip().startswith("arche-mdlm generate"))
    assert main(resume.split("arche-mdlm ")[1].replace("'The cat'", "The_cat").split()) == 2, "another prompt"
    assert "--overwrite" in capsys.readouterr().err
    assert main(command(arm)) == 0

    assert [len(batch) for batch in written] == [3, 3, 1]
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not partial.exists()
    assert main(command(arm)) == 0
    assert "is already complete" in capsys.readouterr().err
    assert len(written) == 3


def test_a_diffusion_text_depends_on_its_number_only(command, tmp_path, monkeypatch):
    assert main(command(output="whole.jsonl")) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert main(command()) == 130
    assert main(command(batch="4")) == 0
    assert records(tmp_path / "out.jsonl") == records(tmp_path / "whole.jsonl")


def test_a_batch_size_from_the_memory_changes_no_text(command, tmp_path, monkeypatch):
    assert main(command(output="whole.jsonl")) == 0
    estimates, batches = [], []
    with monkeypatch.context() as patch:
        patch.setattr(batch_sizes, "estimate", lambda model, length: estimates.append(length) or 8)
        real = stories.write_batch

        def small_machine(model, tokenizer, prompts, *rest):
            if len(prompts) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")
            batches.append(len(prompts))
            if len(batches) == 4:
                raise KeyboardInterrupt
            return real(model, tokenizer, prompts, *rest)

        patch.setattr(stories, "write_batch", small_machine)
        assert main(command(batch="auto")) == 130
        assert len(records(tmp_path / "out.jsonl.partial")) == 6
        assert main(command(batch="auto")) == 0
    assert records(tmp_path / "out.jsonl") == records(tmp_path / "whole.jsonl")
    assert batches == [2, 2, 2, 2, 2, 2], "8 did not fit, 4 did not; in the second sitting 4 were left"
    assert estimates == [24, 24], "the checkpoint's max_length"


def test_the_length_that_a_batch_is_estimated_for(arms, monkeypatch, tokenizer):
    Generate(monkeypatch)
    seen = []
    monkeypatch.setattr(batch_sizes, "estimate", lambda model, length: seen.append(length) or 8)
    words = ["generate", str(arms / "mdlm"), "--prompt", "The cat", "--prompt", "A"]
    for extra in (["--max_new_tokens", "3"], ["--max_length", "9"], ["--max_new_tokens", "99"]):
        assert main([*words, *extra]) == 0
    assert seen == [len(tokenizer("The cat")["input_ids"]) + 3, 9, 32]


def test_the_ar_arm_has_a_batch_size_that_is_the_same_everywhere(command, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_sizes, "estimate", None)
    assert main(command("ar", batch="auto")) == 0
    assert main(command("ar", output="fixed.jsonl", batch="32")) == 0
    for end in ("", ".settings.json"):
        assert (tmp_path / f"out.jsonl{end}").read_bytes() == (tmp_path / f"fixed.jsonl{end}").read_bytes()
    assert json.loads((tmp_path / "out.jsonl.settings.json").read_text())["batch_size"] == 32


def test_a_batch_size_that_is_none(arms, capsys):
    with pytest.raises(SystemExit):
        main(["generate", str(arms / "ar"), "--batch_size", "all"])
    assert "'all' is neither a number nor auto" in capsys.readouterr().err


def test_the_command_that_goes_on(arms, capsys, monkeypatch, tmp_path):
    stop_after(monkeypatch, 1)
    given = ["generate", str(arms / "mdlm"), "--prompt", "It's a", "--prompt", "The", "--num_samples", "3", "--greedy",
             "--batch_size", "2", "--output", str(tmp_path / "o.jsonl")]  # fmt: skip
    assert main([*given, "--overwrite"]) == 130
    words = shlex.split(capsys.readouterr().err.split("resume with")[1])
    parsers = [argparse.ArgumentParser() for _ in range(2)]
    for parser in parsers:
        generate_options.add_options(parser)
    assert words[:2] == ["arche-mdlm", "generate"]
    assert vars(parsers[0].parse_args(words[2:])) == vars(parsers[1].parse_args(given[1:])), "--overwrite is left out"


def test_other_settings_are_refused_and_overwritten_on_demand(command, arms, tmp_path, capsys):
    assert main(command()) == 0
    first = records(tmp_path / "out.jsonl")
    assert main(command("mdlm", "--seed", "1")) == 2
    said = capsys.readouterr().err
    assert "seed=0, not 1" in said
    assert "--overwrite" in said
    assert records(tmp_path / "out.jsonl") == first
    assert main(command("mdlm", "--seed", "1", "--overwrite")) == 0
    assert records(tmp_path / "out.jsonl") != first

    (tmp_path / "strange.jsonl").write_text("mine\n")
    assert main(command(output="strange.jsonl")) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(command("ar", output="ar.jsonl")) == 0
    assert main(command("ar", output="ar.jsonl", batch="4")) == 2, "the AR arm has a stream a batch"
    assert "batch_size=3, not 4" in capsys.readouterr().err


def test_a_checkpoint_changed_in_place_is_another_one(command, arms, capsys):
    assert main(command()) == 0
    config = arms / "mdlm" / "generation_config.json"
    before = config.read_text()
    try:
        config.write_text(before.replace('"temperature": 1.0', '"temperature": 0.5'))
        assert main(command()) == 2
    finally:
        config.write_text(before)
    assert "checkpoint=" in capsys.readouterr().err


def test_prompts_from_files(arms, tmp_path, monkeypatch):
    seen = []

    def write_batch(model, tokenizer, prompts, seeds, kwargs):
        seen.extend(prompts)
        return stories.Batch([stories.Story(p, p, s, 1, True) for p, s in zip(prompts, seeds, strict=True)], None)

    monkeypatch.setattr(stories, "write_batch", write_batch)
    (tmp_path / "p.txt").write_text("A cat\n\n A dog\n", encoding="utf-8")
    (tmp_path / "p.jsonl").write_text('{"prompt": "One", "text": "no"}\n{"text": "Two"}\n', encoding="utf-8")
    for name, expected in (("p.txt", ["A cat", " A dog"]), ("p.jsonl", ["One", "Two"])):
        seen.clear()
        assert main(["generate", str(arms / "ar"), "--prompt", "First", "--prompts", str(tmp_path / name)]) == 0
        assert seen == ["First", *expected]


def test_masks_in_a_prompt_are_filled_in_the_text(arms, tmp_path, tokenizer):
    output = tmp_path / "o.jsonl"
    words = ["generate", str(arms / "mdlm"), "--prompt", "The [MASK][MASK] cat", "--max_new_tokens", "0"]
    assert main([*words, "--num_diffusion_steps", "2", "--output", str(output)]) == 0
    (line,) = records(output)
    assert line["text"].startswith("The")
    assert line["text"].endswith("cat")
    assert "[MASK]" not in line["text"]
    assert line["num_tokens"] == 2


@pytest.mark.parametrize(
    ("arm", "options", "message"),
    [
        ("ar", ["--sampler", "ancestral"], "--sampler is for diffusion models"),
        ("ar", ["--remasking", "cap"], "--remasking is for diffusion models"),
        ("ar", ["--negative_prompt", "x"], "--negative_prompt is for diffusion models"),
        ("ar", ["--stream", "--num_samples", "2"], "--stream shows one text of the AR arm"),
        ("mdlm", ["--num_samples", "0"], "--num_samples 0 must be at least 1"),
        ("mdlm", ["--batch_size", "-3"], "--batch_size -3 must be at least 1"),
        ("mdlm", ["--max_length", "9", "--max_new_tokens", "9"], "--max_new_tokens and --max_length"),
        ("mdlm", ["--greedy", "--top_p", "0.9"], "does not accept --top_p"),
        ("mdlm", ["--negative_prompt", "x"], "needs --guidance_scale"),
        ("ar", ["--prefix_cache"], "--prefix_cache is for diffusion models"),
        ("ar", ["--compile"], "--compile is for diffusion models"),
        ("mdlm", ["--compile", "--prefix_cache"], "--compile and --prefix_cache cannot be used together"),
        ("mdlm", ["--overwrite"], "--overwrite needs --output"),
        ("mdlm", ["--prompts", "nowhere.txt"], "nowhere.txt cannot be read"),
        ("nowhere/at/all", [], "does not exist"),
    ],
)
def test_what_does_not_fit_is_said_before_the_weights_are_loaded(arms, arm, options, message, monkeypatch, capsys):
    monkeypatch.setattr("arche_mdlm.training.models.loading.load_arm", None)
    assert main(["generate", str(arms / arm), *options]) == 2
    assert message in capsys.readouterr().err


def test_compiled_layers_write_the_same_file(command, tmp_path, monkeypatch):
    assert main(command(output="plain.jsonl")) == 0
    compiled = []

    def record(model, **options):
        compiled.append(model)
        compile_layers(model, backend="eager")

    monkeypatch.setattr("arche_mdlm.compiling_mdlm.compile_layers", record)
    assert main(command("mdlm", "--compile")) == 0
    assert len(compiled) == 1
    assert is_compiled(compiled[0])
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "plain.jsonl").read_bytes()


def test_bad_prompt_files(arms, tmp_path, capsys):
    for text, message in (
        ("{", "line 1 is not valid JSON"),
        ("[1]\n", "not an object with a text"),
        ("\n", "does not contain a prompt"),
    ):
        (tmp_path / "p.jsonl").write_text(text)
        assert main(["generate", str(arms / "ar"), "--prompts", str(tmp_path / "p.jsonl")]) == 2
        assert message in capsys.readouterr().err


def test_an_unknown_sampler_is_answered_with_the_nearest(arms, capsys):
    assert main(["generate", str(arms / "mdlm"), "--sampler", "treshold"]) == 2
    assert "did you mean 'threshold'?" in capsys.readouterr().err


@pytest.mark.parametrize("arm", ARMS)
def test_one_text_is_streamed(arms, arm, capsys):
    assert main(["generate", str(arms / arm), "--prompt", "The cat", "--stream"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("The cat")
    assert captured.out.count("The cat") == 1
    assert "writing" not in captured.err, "no bar in the way"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("arm", ARMS)
def test_two_processes_write_the_file_of_one(command, arm, tmp_path, monkeypatch):
    assert main(command(arm, output="whole.jsonl")) == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        assert main(command(arm)) == 130  # what one process has begun, two may end
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", str(port), "-m", "arche_mdlm.commands.main", *command(arm)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}

    process = subprocess.run(launch, env=environment, capture_output=True, text=True)

    assert process.returncode == 0, process.stderr[-3000:]
    assert "process 1 of 2" in process.stderr
    assert process.stderr.count("10 texts are in") == 1
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.jsonl", "out.jsonl.settings.json"]


def test_texts_and_prompts_may_hold_other_ends_of_lines(tmp_path):
    """JSON leaves U+2028 and its like as they are; only a line feed ends a line of a file of samples or prompts."""
    strange = "a\u2028b\u0085c\x0bd"
    file = sample_file.SampleFile(tmp_path / "s.jsonl", 2, 2, {})
    (batch,) = file.begin()
    file.append([{"index": i, "text": strange} for i in batch])
    file.finish()
    assert [record["text"] for record in sample_file.read_records(file.path)] == [strange, strange]
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": strange}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert generate_options._prompts_of(tmp_path / "p.jsonl") == [strange]
    (tmp_path / "p.txt").write_bytes(b"one\r\ntwo\r\n")
    assert generate_options._prompts_of(tmp_path / "p.txt") == ["one", "two"]
