"""Tiny checkpoints of LLaDA and Dream as their authors store them, with random weights, and the logits of the authors' own code
(transformers 4.57, float32, sdpa)."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from arche_mdlm.training.data.tokenizers_io import train_bpe

FOLDER = Path(__file__).parent / "training" / "adopting"
TYPES = {"llada": "llada", "dream": "Dream"}
TEXT = "Once upon a time there was a little girl."
TURN_END, BOS = 302, 303
TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"


def reference(name: str) -> tuple[dict, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(config.json, weights by the authors' names, inputs and logits) of `"llada"` or `"dream"`."""
    with safe_open(FOLDER / f"{name}_tiny.safetensors", framework="pt") as file:
        config = json.loads(file.metadata()["config"]) | {"model_type": TYPES[name]}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
    weights = {key.removeprefix("w."): value for key, value in tensors.items() if key.startswith("w.")}
    return config, weights, {key: value for key, value in tensors.items() if not key.startswith("w.")}


def tokenizer(size: int = 310) -> PreTrainedTokenizerFast:
    """Without a mask, EOS or pad, as LLaDA's is without a mask: 300 is `<|mdm_mask|>`, 301 `<|endoftext|>`, 302 `<|eot_id|>`."""
    backend = train_bpe([TEXT] * 4, vocab_size=280).backend_tokenizer
    made = PreTrainedTokenizerFast(tokenizer_object=backend)
    named = {300: "<|mdm_mask|>", 301: "<|endoftext|>", TURN_END: "<|eot_id|>", BOS: "<|startoftext|>"}
    made.add_tokens([named.get(number, f"<|{number}|>") for number in range(len(made), size)], special_tokens=True)
    made.bos_token, made.chat_template = "<|startoftext|>", TEMPLATE
    return made


def save_weights(folder: Path, weights: dict[str, torch.Tensor], shards: int = 1) -> None:
    """As one file, or as so many with an index."""
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, placed = sorted(weights), {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = names[number::shards]
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def save(folder: Path, name: str, shards: int = 1, dtype: torch.dtype = torch.float32, **changes) -> Path:
    """A checkpoint's folder; `changes` are made to its config.json."""
    config, weights, _ = reference(name)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config | changes))
    save_weights(folder, {key: value.to(dtype) for key, value in weights.items()}, shards)
    tokenizer().save_pretrained(folder)
    return folder
