"""LLaDA, Dream and dllm's a2d as MDLMs: logits of the authors' code, texts of the authors' algorithms, and what is in the folder.

The samplers below are written from the papers: LLaDA (Nie et al. 2025, arXiv 2502.09992, algorithm 5) and Dream (Ye et al. 2025, arXiv
2508.15487, with the decoding of its release).
"""

import json
from fractions import Fraction
from pathlib import Path

import open_checkpoints
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from arche_mdlm.commands.main import main
from arche_mdlm.training.adopting import weights as weights_module
from arche_mdlm.training.models.loading import load_arm

NAMES = ("llada", "dream")
MASK, EOS = 300, 301
KNOWN = [number for number in range(320) if number != MASK]
SHIFT = {"llada": 0, "dream": 1}


def load(folder):
    model, info = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not any(info.values())
    return model.eval()


@pytest.fixture(scope="module")
def adopted(tmp_path_factory):
    """Both models, converted by the command from several shards."""
    root, models = tmp_path_factory.mktemp("adopted"), {}
    for name in NAMES:
        open_checkpoints.save(root / name, name, shards=3)
        assert main(["convert", str(root / name), str(root / f"{name}-mdlm")]) == 0
        models[name] = root / f"{name}-mdlm"
    return models


def raw_logits(folder):
    """A function from canvases to the logits as the authors' models give them: with the mask's, and not shifted."""
    model = load(folder)
    model.config.prediction_offset = 0
    return lambda canvas: model.lm_head(model.model(canvas).last_hidden_state)


def shifted(logits, offset):
    return torch.cat([logits[:, :1], logits[:, :-1]], dim=1) if offset else logits


# --- Logits -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("padding", ["full", "right", "left"])
def test_logits_are_those_of_the_authors_code(adopted, name, padding):
    _, _, known = open_checkpoints.reference(name)
    model, offset = load(adopted[name]), SHIFT[name]
    mask = {"full": None, "right": known["rmask"], "left": known["mask"]}[padding]
    expected = shifted(known[padding], offset)
    attended = torch.ones_like(known["ids"], dtype=torch.bool) if mask is None else mask.bool()
    if offset and padding == "left":  # the first token of a padded row is predicted from a pad there, from nothing here
        attended = attended & attended.roll(1, dims=1)
    found = model(known["ids"], attention_mask=mask).logits
    assert (found[..., MASK] == -torch.inf).all()
    difference = (found - expected)[..., KNOWN][attended].abs().max()
    assert difference <= (2.5e-5 if (name, padding) == ("llada", "left") else 0)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_the_first_position_is_predicted_from_itself(adopted, name):
    _, _, known = open_checkpoints.reference(name)
    found = load(adopted[name])(known["ids"]).logits[:, 0]
    assert torch.equal(found[:, KNOWN], known["full"][:, 0, KNOWN])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [False, True])
def test_a2d_models_are_their_ar_shape_seen_both_ways(tmp_path, kind, tied):
    config_class, model_class = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM),
                                 "qwen3": (Qwen3Config, Qwen3ForCausalLM)}[kind]  # fmt: skip
    torch.manual_seed(0)
    shape = {"vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2, "tie_word_embeddings": tied,
             "bos_token_id": None, "eos_token_id": EOS, "pad_token_id": EOS}  # fmt: skip
    source = model_class(config_class(**shape)).eval()
    for parameter_name, value in source.named_parameters():
        if parameter_name.endswith("bias") or "norm" in parameter_name:
            value.add_(torch.randn_like(value) * 0.3)
    source.save_pretrained(tmp_path / "a2d")
    path = tmp_path / "a2d" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"model_type": f"a2d-{kind}", "mask_token_id": MASK}))
    open_checkpoints.tokenizer().save_pretrained(tmp_path / "a2d")
    assert main(["convert", str(tmp_path / "a2d"), str(tmp_path / "mdlm")]) == 0
    model = load(tmp_path / "mdlm")
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert (model.config.prediction_offset, model.config.diffusion) == (0, "masked")
    ids = torch.randint(4, 300, (2, 12))
    expected = source(ids, attention_mask=torch.zeros(1, 1, 12, 12)).logits
    torch.testing.assert_close(model(ids).logits[..., KNOWN], expected[..., KNOWN], atol=1e-5, rtol=1e-5)


# --- Texts ------------------------------------------------------------------------------------------------------------


def even_shares(number, steps):
    """LLaDA's numbers of tokens a step: as equal as can be, the larger ones first."""
    return [number // steps + (step < number % steps) for step in range(steps)]


def dream_shares(number, steps, epsilon):
    """Dream's: of what is masked the whole part of the share 1 - s / t, times from 1 to epsilon; the rest in the last step."""
    times = [1 - (1 - epsilon) * Fraction(step, steps) for step in range(steps + 1)]
    counts = []
    for step in range(steps - 1):
        counts.append(int((number - sum(counts)) * (1 - times[step + 1] / times[step])))
    return [*counts, number - sum(counts)]


def write_greedily(logits_of, canvas, columns, counts, offset, mask_counts):
    """In place: step after step the `counts` most probable proposals are kept. In the authors' algorithms the mask's own probability counts."""
    for count in counts:
        logits = shifted(logits_of(canvas), offset).double()
        if not mask_counts:
            logits[..., MASK] = -torch.inf
        confidence, proposal = logits.softmax(-1).max(-1)
        inside = torch.zeros_like(canvas, dtype=torch.bool)
        inside[:, columns] = True
        confidence = confidence.masked_fill(~(inside & (canvas == MASK)), -1)
        for row, best in enumerate(confidence.topk(count, dim=-1).indices):
            canvas[row, best] = proposal[row, best]


def cut(sequences, width):
    """Pads behind the first end of what was written: an EOS or the end of a turn."""
    ends = torch.isin(sequences, torch.tensor([EOS, open_checkpoints.TURN_END])).long()
    ends[:, :width] = 0
    return sequences.masked_fill(ends.cumsum(-1) - ends > 0, EOS)


def assert_texts(found, expected, mask_counts):
    """Without the mask's probability the texts are equal. With it, the order of writing is another where two proposals are nearly equally
    probable and the mask is not at one of them: seldom even with these random weights, where the mask is as probable as any token."""
    assert not (expected == MASK).any(), "a mask was proposed: choose other prompts"
    equal = (found == expected).all(-1)
    assert bool(equal.all()) if not mask_counts else int(equal.sum()) >= len(equal) - 2, equal


def prompts(rows=12, width=5):
    return torch.randint(4, 290, (rows, width), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
@pytest.mark.parametrize("mask_counts", [True, False])
@pytest.mark.parametrize(("block", "steps"), [(16, 16), (16, 5), (16, 1), (8, 8), (4, 8), (4, 16)])
def test_confidence_writes_the_text_of_llada_s_algorithm(adopted, block, steps, mask_counts):
    logits_of, prompt, new = raw_logits(adopted["llada"]), prompts(), 16
    canvas = torch.cat([prompt, torch.full((len(prompt), new), MASK)], dim=1)
    for start in range(prompt.shape[1], canvas.shape[1], block):
        counts = even_shares(block, steps * block // new)
        write_greedily(logits_of, canvas, slice(start, start + block), counts, 0, mask_counts)
    options = {
        "max_new_tokens": new,
        "num_diffusion_steps": steps,
        "block_length": block,
        "sampler": "confidence",
        "temperature": 0,
    }
    found = load(adopted["llada"]).generate(prompt, **options)
    assert_texts(found, cut(canvas, prompt.shape[1]), mask_counts)


@torch.no_grad()
def test_a_guidance_scale_is_llada_s_and_one(adopted):
    """LLaDA's scale s adds s times the difference to the logits of the prompt masked."""
    plain, prompt, new, scale = raw_logits(adopted["llada"]), prompts(), 16, 0.5

    def logits_of(canvas):
        unknown = canvas.clone()
        unknown[:, : prompt.shape[1]] = MASK
        given, other = plain(canvas), plain(unknown)
        return other + (scale + 1) * (given - other)

    canvas = torch.cat([prompt, torch.full((len(prompt), new), MASK)], dim=1)
    write_greedily(logits_of, canvas, slice(prompt.shape[1], None), even_shares(new, 8), 0, mask_counts=False)
    options = {"max_new_tokens": new, "num_diffusion_steps": 8, "sampler": "confidence", "temperature": 0}
    assert not (prompt == open_checkpoints.BOS).any()  # it is not masked here, and is in LLaDA
    found = load(adopted["llada"]).generate(prompt, guidance_scale=scale + 1, **options)
    assert_texts(found, cut(canvas, prompt.shape[1]), mask_counts=False)


@torch.no_grad()
@pytest.mark.parametrize("mask_counts", [True, False])
@pytest.mark.parametrize("steps", [1, 4, 8, 16])
def test_confidence_writes_the_text_of_dream_s_algorithm(adopted, steps, mask_counts):
    """With times that go down to 0, where its shares are whole numbers."""
    logits_of, prompt, new = raw_logits(adopted["dream"]), prompts(), 16
    canvas = torch.cat([prompt, torch.full((len(prompt), new), MASK)], dim=1)
    counts = dream_shares(new, steps, Fraction(0))
    assert counts == [new // steps] * steps
    write_greedily(logits_of, canvas, slice(prompt.shape[1], None), counts, 1, mask_counts)
    options = {"max_new_tokens": new, "num_diffusion_steps": steps, "sampler": "confidence", "temperature": 0}
    found = load(adopted["dream"]).generate(prompt, **options)
    assert_texts(found, cut(canvas, prompt.shape[1]), mask_counts)


@torch.no_grad()
def test_dream_s_own_last_time_changes_the_last_token_alone(adopted):
    """Its default of 1/1000 leaves the first of N steps empty and writes two tokens in the last one."""
    logits_of, prompt, new = raw_logits(adopted["dream"]), prompts(), 16
    canvas = torch.cat([prompt, torch.full((len(prompt), new), MASK)], dim=1)
    counts = dream_shares(new, new, Fraction(1, 1000))
    assert counts == [0] + [1] * 14 + [2]
    write_greedily(logits_of, canvas, slice(prompt.shape[1], None), counts, 1, mask_counts=False)
    options = {
        "max_new_tokens": new,
        "num_diffusion_steps": new,
        "sampler": "confidence",
        "temperature": 0,
        "eos_token_id": None,
    }
    model = load(adopted["dream"])
    model.generation_config.eos_token_id = None
    out = model.generate(prompt, **options, return_dict_in_generate=True, output_history=True)
    last = out.history[-2] == MASK  # what the last of our steps wrote
    assert (last.sum(-1) == 1).all()
    assert torch.equal(out.sequences.masked_fill(last, -1), canvas.masked_fill(last, -1))


# --- The folder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_is_the_source_s_in_several_files(tmp_path, name, monkeypatch):
    monkeypatch.setattr(weights_module, "SHARD_BYTES", 100_000)
    open_checkpoints.save(tmp_path / "source", name, shards=2, dtype=torch.bfloat16)
    assert main(["convert", str(tmp_path / "source"), str(tmp_path / "mdlm")]) == 0
    index = json.loads((tmp_path / "mdlm" / "model.safetensors.index.json").read_text())
    files = {path.name for path in (tmp_path / "mdlm").glob("*.safetensors")}
    assert len(files) > 2
    assert files == set(index["weight_map"].values())
    model = load(tmp_path / "mdlm")
    assert (model.dtype, model.config.dtype) == (torch.bfloat16, torch.bfloat16)
    _, original, _ = open_checkpoints.reference(name)
    ours = model.state_dict()
    assert len(ours) == len(original) == len(index["weight_map"])
    assert index["metadata"]["total_parameters"] == sum(value.numel() for value in original.values())
    left = {key: value.bfloat16() for key, value in original.items()}
    for key, value in ours.items():  # each is exactly one of theirs
        match = next(old for old, theirs in left.items() if theirs.shape == value.shape and torch.equal(theirs, value))
        del left[match]
        assert key.endswith(match.rpartition(".")[2])
    assert not left


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_loads_everywhere_and_writes(adopted, name):
    folder = adopted[name]
    assert [type(auto.from_pretrained(folder, trust_remote_code=True)).__name__ for auto in (AutoModel, AutoModelForMaskedLM)] == [
        "MDLMModel", "MDLMForMaskedDiffusion"]  # fmt: skip
    model, (arm, _) = load(folder), load_arm(folder)
    ids = prompts()
    assert torch.equal(arm.eval()(ids).logits, model(ids).logits)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    own = open_checkpoints.tokenizer()
    assert tokenizer(open_checkpoints.TEXT)["input_ids"] == own(open_checkpoints.TEXT)["input_ids"]
    assert set(tokenizer(open_checkpoints.TEXT)) == {"input_ids", "attention_mask"}
    assert (tokenizer.mask_token, tokenizer.mask_token_id) == ("<|mdm_mask|>", MASK)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.model_max_length) == (EOS, EOS, 64)
    config = model.config
    assert (config.mask_token_id, config.eos_token_id, config.pad_token_id, config.bos_token_id) == (
        MASK, EOS, EOS, open_checkpoints.BOS)  # fmt: skip
    settings = model.generation_config
    assert settings.eos_token_id == [EOS, open_checkpoints.TURN_END]
    assert (settings.sampler, settings.max_length, settings.max_new_tokens) == (
        {"llada": "confidence", "dream": "entropy"}[name],
        None,
        32,
    )
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert open_checkpoints.TURN_END in chat["input_ids"][0].tolist()
    out = model.generate(**chat, max_new_tokens=8)
    assert not (out == MASK).any()
    gap = tokenizer("Once <|mdm_mask|><|mdm_mask|> a time", return_tensors="pt")
    assert int((gap["input_ids"] == MASK).sum()) == 2
    assert not (model.generate(**gap, max_new_tokens=0) == MASK).any()


def test_a_text_ends_at_the_end_of_a_turn(adopted):
    """One of the two ids that end a text is enough: pads stand behind it."""
    model = load(adopted["llada"])
    with torch.no_grad():  # it always says the end of a turn
        model.lm_head.weight.zero_()
        model.model.norm.weight.fill_(1)
        states = model.model(prompts()[:, :1].repeat(1, 13)).last_hidden_state
        model.lm_head.weight[open_checkpoints.TURN_END] = states[0, 0]
    out = model.generate(prompts(1, 3), max_new_tokens=8, num_diffusion_steps=8)
    written = out[0, 3:].tolist()
    where = written.index(open_checkpoints.TURN_END)
    assert EOS not in written[:where]
    assert written[where + 1 :] == [EOS] * (7 - where)


def test_no_code_of_the_source_runs(tmp_path, monkeypatch):
    """Its modules, and what its configs say about them, are passed over."""
    folder = open_checkpoints.save(
        tmp_path / "source", "llada", auto_map={"AutoConfig": "bad.Config", "AutoModel": "bad.Model"}
    )
    trap = (
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Config: pass\nclass Model: pass\nclass Tokenizer: pass\n"
    )
    (folder / "bad.py").write_text(trap)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(
        json.dumps(settings | {"auto_map": {"AutoTokenizer": ["bad.Tokenizer", None]}, "tokenizer_class": "Tokenizer"})
    )
    assert main(["convert", str(folder), str(tmp_path / "mdlm")]) == 0
    load(tmp_path / "mdlm")
    AutoTokenizer.from_pretrained(tmp_path / "mdlm", trust_remote_code=True)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "mdlm" / "bad.py").exists()
    for name in ("config.json", "tokenizer_config.json"):
        assert "bad." not in (tmp_path / "mdlm" / name).read_text()


def test_dream_s_tokenizer_is_read_from_its_vocabulary_and_merges(tmp_path):
    """It has no tokenizer.json, and its class is in the repository's code."""
    folder = open_checkpoints.save(tmp_path / "source", "dream")
    whole = json.loads((folder / "tokenizer.json").read_text())
    model = whole["model"]
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in model["merges"]))
    added = {
        str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in whole["added_tokens"]
    }
    settings = {"tokenizer_class": "DreamTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
                "added_tokens_decoder": added, "mask_token": "<|mdm_mask|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
                "bos_token": "<|endoftext|>"}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert main(["convert", str(folder), str(tmp_path / "mdlm")]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "mdlm", trust_remote_code=True)
    assert (tokenizer.mask_token_id, tokenizer.eos_token_id, len(tokenizer)) == (MASK, EOS, 310)
    ids = tokenizer("Once upon<|mdm_mask|> a time")["input_ids"]
    assert ids.count(MASK) == 1
    assert tokenizer.decode(ids) == "Once upon<|mdm_mask|> a time"
    assert [number for number in ids if number >= 280] == [MASK], "pieces of the vocabulary, not unknown ones"


@torch.no_grad()
def test_it_goes_on_as_block_diffusion(adopted, tmp_path):
    """A second conversion starts another family from the new folder: in one block, the same model."""
    words = ["convert", str(adopted["llada"]), str(tmp_path / "block"), "--diffusion", "block", "--block_length", "64"]
    assert main(words) == 0
    ids = open_checkpoints.reference("llada")[2]["ids"]
    assert torch.equal(load(tmp_path / "block")(ids).logits, load(adopted["llada"])(ids).logits)


# --- Memory -----------------------------------------------------------------------------------------------------------


def high_water(work) -> int:
    """Bytes by which the resident memory of this process rises while `work()` runs."""
    status = Path("/proc/self/status")

    def read(field):
        return int(next(line for line in status.read_text().splitlines() if line.startswith(field)).split()[1]) * 1024

    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    before = read("VmRSS:")
    work()
    return read("VmHWM:") - before


def test_memory_holds_one_shard_however_large_the_model(tmp_path, monkeypatch):
    try:
        high_water(lambda: None)
    except OSError:
        pytest.skip("the high-water mark of a process cannot be set back here")
    monkeypatch.setattr(weights_module, "SHARD_BYTES", 24_000_000)
    config, weights, _ = open_checkpoints.reference("llada")
    config |= {"d_model": 512, "n_heads": 8, "n_kv_heads": 8, "mlp_hidden_size": 1024}
    rises, sizes = {}, {}
    for layers in (6, 36):
        made = {}
        for name, value in weights.items():
            shape = [{64: 512, 96: 1024}.get(side, side) for side in value.shape]
            for number in range(layers) if "blocks.0." in name else [None] * ("blocks." not in name):
                made[name.replace("blocks.0.", f"blocks.{number}.")] = torch.zeros(shape, dtype=torch.bfloat16)
        sizes[layers] = sum(value.nbytes for value in made.values())
        folder = open_checkpoints.save(tmp_path / f"source-{layers}", "llada", **config | {"n_layers": layers})
        (folder / "model.safetensors").unlink()
        open_checkpoints.save_weights(folder, made, shards=layers // 2)
        del made
        words = ["convert", str(folder), str(tmp_path / f"mdlm-{layers}")]
        rises[layers] = high_water(lambda words=words: main(words))
    assert sizes[36] > 5 * sizes[6] > 5 * 24_000_000
    assert rises[36] < rises[6] + 24_000_000
    assert rises[36] < sizes[36] / 2
