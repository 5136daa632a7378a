"""Every private part of another library that the product touches, by name, with what is expected of it.

A new version of a library then fails here, where the message says what to look at, before it fails anywhere else. A new touch
point fails as well, until it has a line.
"""

import ast
import inspect
from pathlib import Path

import datasets
import pytest
import torch
from torch import nn
from transformers import GenerationMixin, LlamaConfig, LlamaForCausalLM, Pipeline
from transformers.generation.configuration_utils import GenerationConfig
from transformers.models.llama import modeling_llama

from arche_mdlm import MDLMForMaskedDiffusion, MDLMGenerationConfig, MDLMModel
from arche_mdlm.last_layer_mdlm import CACHE_ARGUMENT
from arche_mdlm.pipelines.text_infilling import TextInfillingPipeline

ROOT = Path(__file__).parents[1]
PRODUCT = (
    "modeling_mdlm",
    "configuration",
    "pipelines",
    "training",
    "metrics",
    "writing",
    "evaluation",
    "studies",
    "serving",
    "commands",
)


def parameters_of(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def hook_dictionaries() -> bool:
    linear = nn.Linear(1, 1)
    linear.register_forward_hook(lambda *_: None)
    linear.register_forward_pre_hook(lambda *_: None)
    linear.register_full_backward_hook(lambda *_: None)
    linear.register_full_backward_pre_hook(lambda *_: None)
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return all(len(getattr(linear, name)) == 1 for name in names)


def compiled_call() -> bool:
    linear = nn.Linear(1, 1)
    before = linear._compiled_call_impl
    linear.compile(backend="eager")
    return before is None and callable(linear._compiled_call_impl)


def selected_rows() -> bool:
    data = datasets.Dataset.from_dict({"x": [1, 2, 3]})
    return data._indices is None and data.select([2, 0])._indices.column(0).to_pylist() == [2, 0]


# What is touched, and what must hold of it.
TOUCHED = {
    "_forward_hooks": hook_dictionaries,
    "_forward_pre_hooks": hook_dictionaries,
    "_backward_hooks": hook_dictionaries,
    "_backward_pre_hooks": hook_dictionaries,
    "_compiled_call_impl": compiled_call,
    "_dynamo": lambda: isinstance(torch._dynamo.config.recompile_limit, int),
    "_indices": selected_rows,
    "_attn_implementation": lambda: LlamaConfig(attn_implementation="eager")._attn_implementation == "eager",
    "_no_split_modules": lambda: LlamaForCausalLM._no_split_modules == ["LlamaDecoderLayer"],
    "_prepare_generate_kwargs": lambda: (
        parameters_of(Pipeline._prepare_generate_kwargs)[:2] == ["self", "generate_kwargs"]
    ),
    "_actions": lambda: __import__("argparse").ArgumentParser()._actions,
}
# Methods of transformers that ours stand in for: ours must be called, so theirs must still be there.
OVERRIDDEN = {
    MDLMForMaskedDiffusion: {"_validate_generated_length", "_prepare_generated_length", "_get_stopping_criteria"},
    TextInfillingPipeline: {"_sanitize_parameters", "_forward"},
    MDLMModel: set(),
}
# Class attributes that transformers reads.
TOLD = {"_tied_weights_keys", "_tp_plan", "_fsdp_plan", "_auto_class", "_pipeline_calls_generate", "_load_processor",
        "_load_image_processor", "_load_feature_extractor", "_load_tokenizer", "_abc_impl", "_registered_impl"}  # fmt: skip
OF_PYTHON = {"_asdict", "__future__"}


def trees():
    for folder in PRODUCT:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def own_names() -> set[str]:
    """Names that the product itself defines."""
    names = set()
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def touched() -> dict[str, str]:
    """Private attributes and imports that are not the product's own: name, and where it was found first."""
    own, found = own_names() - {"_compiled_call_impl"}, {}
    for path, tree in trees():
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Attribute):
                names = [node.attr]
            elif (
                isinstance(node, ast.ImportFrom)
                and node.level == 0
                and not (node.module or "").startswith("arche_mdlm")
            ):
                names = [*node.module.split("."), *(alias.name for alias in node.names)]
            for name in names:
                if name.startswith("_") and not name.startswith("__") and name not in own:
                    found.setdefault(name, f"{path}:{node.lineno}")
    return found


@pytest.mark.parametrize("name", TOUCHED)
def test_a_private_part_is_as_it_was(name):
    assert TOUCHED[name](), f"{name} of another library has changed; it is used in {touched().get(name)}"


def test_no_private_part_is_touched_without_a_line_here():
    new = {
        name: where for name, where in touched().items() if name not in {*TOUCHED, *TOLD, *OF_PYTHON, "_clear_draft"}
    }
    assert not new
    assert set(TOUCHED) <= set(touched()), "a line that nothing needs any more"


def test_overridden_methods_are_still_there():
    for ours, names in OVERRIDDEN.items():
        found = set()
        for cls in ours.__mro__:
            if cls.__module__.startswith("arche_mdlm"):
                found |= {
                    name for name in vars(cls)
                    if name.startswith("_") and not name.startswith("__") and name not in TOLD
                    and not name.endswith("_cached_value")  # what transformers puts there while it runs
                    and any(name in vars(base) for base in ours.__mro__ if base.__module__.startswith("transformers"))
                }  # fmt: skip
        assert found == names, ours.__name__
    for name in OVERRIDDEN[MDLMForMaskedDiffusion]:
        assert callable(getattr(GenerationMixin, name)), name


def test_inner_parts_of_llama_are_as_the_last_layer_expects():
    layer = modeling_llama.LlamaDecoderLayer(LlamaConfig(hidden_size=8, intermediate_size=8, num_attention_heads=2), 0)
    for name in ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm"):
        assert isinstance(getattr(layer, name), nn.Module), name
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        assert isinstance(getattr(layer.self_attn, name), nn.Linear), name
    assert CACHE_ARGUMENT in parameters_of(modeling_llama.LlamaAttention.forward)
    x = torch.arange(4.0)[None, None, None]
    assert modeling_llama.rotate_half(x).flatten().tolist() == [-2, -3, 0, 1]
    assert parameters_of(modeling_llama.eager_attention_forward)[:5] == [
        "module",
        "query",
        "key",
        "value",
        "attention_mask",
    ]


def test_generation_is_handed_to_a_loop_of_our_own():
    assert "custom_generate" in parameters_of(GenerationMixin.generate)
    assert "adjust_generation_fn" in dir(GenerationMixin)
    assert set(vars(GenerationConfig())) <= set(vars(MDLMGenerationConfig()))
