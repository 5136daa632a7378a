"""What cannot be taken over is refused in one line that says why, before anything is written."""

import json
import subprocess
import sys

import open_checkpoints
import pytest
import torch
from hub_server import hub_environment, hub_server
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from arche_mdlm import MDLMForMaskedDiffusion
from arche_mdlm.commands.main import main
from arche_mdlm.training.adopting import weights as weights_module

SWITCHES = {
    "llada": {
        "rope": (False, "rope=False must be True"),
        "block_type": ("sequential", "block_type='sequential' must be 'llama'"),
        "activation_type": ("swiglu", "activation_type='swiglu' must be 'silu'"),
        "layer_norm_type": ("default", "layer_norm_type='default' must be 'rms'"),
        "attention_layer_norm": (True, "attention_layer_norm=True must be false"),
        "input_emb_norm": (True, "input_emb_norm=True"),
        "scale_logits": (True, "scale_logits=True"),
        "alibi": (True, "alibi=True"),
        "clip_qkv": (8.0, "clip_qkv=8.0"),
        "include_bias": (True, "include_bias=True"),
        "bias_for_layer_norm": (True, "bias_for_layer_norm=True"),
        "block_group_size": (2, "block_group_size=2 must be 1"),
        "layer_norm_with_affine": (False, "layer_norm_with_affine=False must be True"),
        "num_experts": (64, "num_experts=64: it is a mixture of experts"),
        "quantization_config": ({"bits": 4}, "quantization_config is set"),
    },
    "dream": {
        "use_sliding_window": (True, "use_sliding_window=True must be false"),
        "use_mrope": (True, "use_mrope=True must be false"),
        "quantization_config": ({"bits": 4}, "quantization_config is set"),
    },
}
CASES = [(name, switch, *case) for name, switches in SWITCHES.items() for switch, case in switches.items()]


@pytest.fixture
def refused(tmp_path, capsys):
    """Convert the source of this test; the one line of the error. Nothing may be left."""

    def run(*options):
        capsys.readouterr()
        assert main(["convert", str(tmp_path / "source"), str(tmp_path / "new"), *options]) == 2
        assert not (tmp_path / "new").exists()
        assert not list(tmp_path.glob(".new*"))
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        return line

    return run


@pytest.mark.parametrize(("name", "switch", "value", "message"), CASES)
def test_a_switch_that_the_trunk_lacks_is_named(tmp_path, refused, name, switch, value, message):
    open_checkpoints.save(tmp_path / "source", name, **{switch: value})
    assert message in refused()


def test_all_switches_are_named_at_once(tmp_path, refused):
    open_checkpoints.save(tmp_path / "source", "llada", rope=False, alibi=True)
    assert "with unsupported settings: rope=False must be True; alibi=True must be false or missing" in refused()


@pytest.mark.parametrize("kind", ["bert", "lladamoe", "gpt2", None])
def test_another_type_is_named_with_those_that_fit(tmp_path, refused, kind):
    open_checkpoints.save(tmp_path / "source", "llada", model_type=kind)
    line = refused()
    assert f"is of type {kind!r}; only types 'llama', 'mistral', 'qwen2', 'qwen3' can be converted" in line
    assert "LLaDA, Dream and dllm's a2d" in line
    assert ("mixture of experts" in line) == (kind == "lladamoe")
    assert ("learned positions" in line) == (kind == "gpt2")


def test_gpt2_is_refused_with_the_reason(tmp_path, refused):
    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path / "source")
    assert "it has learned positions, LayerNorm and an MLP without a gate" in refused()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{ no", "config.json of .* is not valid JSON"),
        ("[]", "is not a JSON object"),
        ('{"model_type": "llada"}', "rope=None"),
    ],
)
def test_a_config_that_cannot_be_read(tmp_path, refused, text, message):
    import re

    open_checkpoints.save(tmp_path / "source", "llada")
    (tmp_path / "source" / "config.json").write_text(text)
    assert re.search(message, refused())


@pytest.mark.parametrize(("name", "lost"), [("llada", "d_model"), ("dream", "hidden_size")])
def test_a_field_that_is_missing(tmp_path, refused, name, lost):
    folder = open_checkpoints.save(tmp_path / "source", name)
    values = json.loads((folder / "config.json").read_text())
    del values[lost]
    (folder / "config.json").write_text(json.dumps(values))
    assert f"lacks {lost}" in refused()


@pytest.mark.parametrize(
    ("name", "change"), [("llada", {"d_model": "64"}), ("llada", {"n_heads": 0}), ("llada", {"rope_theta": None}),
                         ("dream", {"rms_norm_eps": "x"}), ("dream", {"num_attention_heads": 0})]
)  # fmt: skip
def test_values_that_make_no_model(tmp_path, refused, name, change):
    open_checkpoints.save(tmp_path / "source", name, **change)
    assert "does not give a valid model" in refused()


def test_a_mask_that_is_no_id(tmp_path, refused):
    open_checkpoints.save(tmp_path / "source", "llada", mask_token_id="x")
    assert "has mask_token_id='x', which is not a token id" in refused()


# --- Weights ----------------------------------------------------------------------------------------------------------


def test_a_missing_shard(tmp_path, refused):
    folder = open_checkpoints.save(tmp_path / "source", "llada", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert "lacks model-00002-of-00003.safetensors of the 3 shards" in refused()


def test_a_damaged_shard(tmp_path, refused):
    folder = open_checkpoints.save(tmp_path / "source", "llada", shards=3)
    path = folder / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "model-00002-of-00003.safetensors of" in (line := refused())
    assert "is damaged" in line


def test_a_shard_without_a_tensor_of_the_index(tmp_path, refused):
    folder = open_checkpoints.save(tmp_path / "source", "llada", shards=2)
    path = folder / "model-00001-of-00002.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    del tensors[name]
    save_file(tensors, path)
    assert f"lacks {name}, which model.safetensors.index.json lists" in refused()


@pytest.mark.parametrize("name", ["llada", "dream"])
def test_missing_and_unknown_tensors(tmp_path, refused, name):
    folder = open_checkpoints.save(tmp_path / "source", name)
    tensors = load_file(folder / "model.safetensors")
    lost = next(key for key in tensors if "1" in key and "up_proj" in key)
    tensors["model.strange.weight"] = tensors.pop(lost)
    save_file(tensors, folder / "model.safetensors")
    assert (
        "missing model.layers.1.mlp.up_proj.weight (names of this library); unknown model.strange.weight" in refused()
    )


@pytest.mark.parametrize("name", ["llada", "dream"])
def test_a_tensor_of_another_size(tmp_path, refused, name):
    folder = open_checkpoints.save(tmp_path / "source", name)
    tensors = load_file(folder / "model.safetensors")
    wrong = next(key for key in tensors if "1" in key and "up_proj" in key)
    tensors[wrong] = torch.zeros(95, 64)
    save_file(tensors, folder / "model.safetensors")
    assert (
        f"1 tensors of '{folder}' do not have the sizes of its config.json, first {wrong}: (95, 64), not (96, 64)"
        in refused()
    )


def test_a_tensor_that_is_there_twice(tmp_path, refused):
    folder = open_checkpoints.save(tmp_path / "source", "llada", shards=2)
    tensors = [load_file(folder / f"model-0000{number}-of-00002.safetensors") for number in (1, 2)]
    name = sorted(tensors[0])[0]
    save_file(tensors[1] | {name: tensors[0][name]}, folder / "model-00002-of-00002.safetensors")
    assert f"has {name} twice" in refused()


def test_quantised_tensors(tmp_path, refused):
    folder = open_checkpoints.save(tmp_path / "source", "llada")
    tensors = load_file(folder / "model.safetensors")
    name = sorted(tensors)[0]
    save_file(tensors | {name: tensors[name].to(torch.int8)}, folder / "model.safetensors")
    assert "has tensors of dtype I8: use the unquantised checkpoint" in refused()


def test_a_tied_head_must_be_the_embedding(tmp_path, refused):
    folder = open_checkpoints.save(tmp_path / "source", "dream", tie_word_embeddings=True)
    assert "ties lm_head.weight to model.embed_tokens.weight, but their values differ" in refused()
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    assert main(["convert", str(folder), str(tmp_path / "tied")]) == 0
    assert "lm_head.weight" not in load_file(tmp_path / "tied" / "model.safetensors")


def test_pickles_only(tmp_path, refused):
    folder = open_checkpoints.save(tmp_path / "source", "llada")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    line = refused()
    assert "only pickled weights (pytorch_model.bin), and loading them would run their code" in line
    (folder / "pytorch_model.bin").unlink()
    assert "has no weights: neither model.safetensors nor model.safetensors.index.json" in refused()


def test_a_disk_without_room(tmp_path, refused, monkeypatch):
    open_checkpoints.save(tmp_path / "source", "llada")
    monkeypatch.setattr(weights_module.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 1000}))
    assert "name a destination on another disk" in refused()


def test_a_disk_without_room_for_what_the_index_announces(tmp_path, refused, monkeypatch):
    """Before a shard is downloaded."""
    folder = open_checkpoints.save(tmp_path / "source", "llada", shards=2)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    (folder / "model.safetensors.index.json").write_text(json.dumps(index | {"metadata": {"total_size": 10**18}}))
    monkeypatch.setattr(weights_module, "safe_open", None)
    assert "the weights need 1000000000.0 GB" in refused()


# --- Tokenizer --------------------------------------------------------------------------------------------------------


def test_a_tokenizer_without_the_mask_token(tmp_path, refused):
    folder = open_checkpoints.save(tmp_path / "source", "llada")
    for size in (290, 300):  # id 300 is nothing, or BOS
        open_checkpoints.tokenizer(size).save_pretrained(folder)
        assert "has mask_token_id=300, but its tokenizer has no added token with that id" in refused()
    folder.joinpath("config.json").write_text(
        json.dumps(open_checkpoints.reference("llada")[0] | {"mask_token_id": None})
    )
    assert "has no mask token, neither as mask_token_id in config.json nor in its tokenizer" in refused()


def test_two_masks(tmp_path, refused):
    folder = open_checkpoints.save(tmp_path / "source", "llada")
    tokenizer = open_checkpoints.tokenizer()
    tokenizer.mask_token = "<|305|>"
    tokenizer.save_pretrained(folder)
    assert "has mask_token_id=300, but the mask of its tokenizer, '<|305|>', is id 305" in refused()


def test_a_tokenizer_of_another_model_or_none(tmp_path, refused):
    folder = open_checkpoints.save(tmp_path / "source", "llada")
    open_checkpoints.tokenizer(330).save_pretrained(folder)
    assert "has 330 tokens; the model has 320 rows" in refused()
    (folder / "tokenizer.json").write_text("{}")
    assert "cannot be read" in refused()
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer: neither tokenizer.json nor vocab.json and merges.txt" in refused()


# --- The command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ["--diffusion", "uniform"],
        ["--diffusion", "block", "--block_length", "4"],
        ["--shift"],
        ["--noise_schedule", "cosine"],
    ],
)
def test_options_for_models_that_are_to_be_trained(tmp_path, refused, options):
    open_checkpoints.save(tmp_path / "source", "llada")
    line = refused(*options)
    assert options[0] in line
    assert "is already a diffusion model" in line


def test_a_context_beyond_the_source_s(tmp_path, refused):
    folder = open_checkpoints.save(tmp_path / "source", "dream")
    assert "context_length=65 is not in 1 to 64" in refused("--context_length", "65")
    assert main(["convert", str(folder), str(tmp_path / "short"), "--context_length", "32"]) == 0
    assert json.loads((tmp_path / "short" / "config.json").read_text())["max_position_embeddings"] == 32


def test_a_folder_that_holds_something_is_left_alone(tmp_path, capsys):
    open_checkpoints.save(tmp_path / "source", "llada")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "notes.txt").write_text("mine")
    assert main(["convert", str(tmp_path / "source"), str(tmp_path / "new")]) == 2
    assert "is there already and not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["notes.txt"]


def test_a_failure_while_writing_leaves_nothing(tmp_path, refused, monkeypatch):
    open_checkpoints.save(tmp_path / "source", "llada")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights_module, "save_file", full)
    assert "No space left" in refused()


# --- The Hub ----------------------------------------------------------------------------------------------------------

ONLINE = """
import sys
from huggingface_hub import HfApi
from arche_mdlm import MDLMForMaskedDiffusion
from arche_mdlm.commands.main import main

HfApi().create_repo("arche/llada")
HfApi().upload_folder(repo_id="arche/llada", folder_path=sys.argv[1])
assert main(["convert", "arche/llada", sys.argv[2]]) == 0
sys.exit(main(["convert", "arche/nothing", sys.argv[3]]))
"""
OFFLINE = """
import sys
from arche_mdlm import MDLMForMaskedDiffusion
from arche_mdlm.commands.main import main

assert main(["convert", "arche/llada", sys.argv[1]]) == 0
sys.exit(main(["convert", "arche/other", sys.argv[2]]))
"""


def in_a_process(code, environment, *words):
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


def test_a_repository_of_the_hub_and_without_network(tmp_path):
    """Downloaded, then out of the cache without network; a repository in neither place is an error."""
    folder = open_checkpoints.save(tmp_path / "source", "llada", shards=2)
    (folder / "modeling_llada.py").write_text("raise SystemExit('this must not run')\n")
    with hub_server(tmp_path / "hub") as url:
        environment = hub_environment(url, home=tmp_path / "home")
        online = in_a_process(ONLINE, environment, folder, tmp_path / "online", tmp_path / "nothing")
    offline = in_a_process(OFFLINE, environment | {"HF_HUB_OFFLINE": "1"}, tmp_path / "offline", tmp_path / "other")
    for done in (online, offline):
        assert "the LLaDA model arche/llada with its weights (145,856 parameters, float32, 2 files)" in done.stdout, (
            done.stderr
        )
        assert done.returncode == 2, done.stderr
        assert "from the Hub, and it is not in the cache" in done.stderr
    files = [
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.safetensors")}
        for name in ("online", "offline")
    ]
    assert files[0] == files[1]
    assert len(files[0]) == 2
    assert not any("modeling_llada" in path.name for path in (tmp_path / "home").rglob("*.py")), (
        "code is not even downloaded"
    )
    assert not (tmp_path / "nothing").exists()
    assert not (tmp_path / "other").exists()


REVISIONS = """
import sys
from huggingface_hub import HfApi, ModelCard
from arche_mdlm import MDLMForMaskedDiffusion
from arche_mdlm.commands.main import main

api = HfApi()
for name, first, second in (("arche/llada", *sys.argv[1:3]), ("arche/ar", *sys.argv[3:5])):
    api.create_repo(name)
    api.upload_folder(repo_id=name, folder_path=first)
    api.create_tag(name, tag="v1")
    api.upload_folder(repo_id=name, folder_path=second)
    for revision in ("v1", "main"):
        assert main(["convert", name, f"{sys.argv[5]}/{name[6:]}-{revision}", "--revision", revision]) == 0
        card = ModelCard.load(f"{sys.argv[5]}/{name[6:]}-{revision}/README.md")
        assert (card.data.base_model, card.data.license) == (name, "mit")
        assert api.model_info("arche/llada", revision=revision).sha in card.text or name == "arche/ar"
sys.exit(main(["convert", "arche/llada", f"{sys.argv[5]}/other", "--revision", "v2"]))
"""


def test_a_revision_of_a_repository(tmp_path):
    """The weights of the tag, not those that came later; the card names the source, its commit and its licence."""
    sources = []
    for version in (1, 2):
        folder = open_checkpoints.save(tmp_path / f"llada-{version}", "llada")
        weights = load_file(folder / "model.safetensors")
        save_file(
            {name: value * version for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"}
        )
        sources.append(folder)
    for version in (1, 2):
        torch.manual_seed(version)
        folder = tmp_path / f"ar-{version}"
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        LlamaForCausalLM(LlamaConfig(vocab_size=320, **sizes)).save_pretrained(folder)
        tokenizer = open_checkpoints.tokenizer()
        tokenizer.bos_token = tokenizer.eos_token = tokenizer.convert_ids_to_tokens(5)
        tokenizer.save_pretrained(folder)
        sources.append(folder)
    for folder in sources:
        (folder / "README.md").write_text("---\nlicense: mit\n---\nwords\n")
    with hub_server(tmp_path / "hub") as url:
        done = in_a_process(REVISIONS, hub_environment(url, home=tmp_path / "home"), *sources, tmp_path)
    assert done.returncode == 2, done.stderr
    assert "could not get 'arche/llada' at revision 'v2' from the Hub" in done.stderr, done.stderr
    for kind in ("llada", "ar"):
        one, two = (
            MDLMForMaskedDiffusion.from_pretrained(tmp_path / f"{kind}-{revision}") for revision in ("v1", "main")
        )
        assert not torch.equal(one.lm_head.weight, two.lm_head.weight)
    assert torch.equal(
        MDLMForMaskedDiffusion.from_pretrained(tmp_path / "ar-v1").model.layers[0].mlp.up_proj.weight,
        LlamaForCausalLM.from_pretrained(sources[2]).model.layers[0].mlp.up_proj.weight,
    )


def test_a_folder_has_no_revisions(tmp_path, capsys):
    folder = open_checkpoints.save(tmp_path / "source", "llada")
    assert main(["convert", str(folder), str(tmp_path / "new"), "--revision", "v1"]) == 2
    assert "revision='v1' is only for Hub repositories, but" in capsys.readouterr().err
