"""transformers' common model tests, applied to ours; from the sdist of the installed version (`make venv` fetches it).

The sdist leaves out the mixins of generation and of exporters, and those two are empty here: tests/modeling and
test_placement.py test the same.
"""

import importlib.util
import sys
import types
import unittest
from pathlib import Path

import pytest
import torch
import transformers

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion, MDLMModel

FOLDER = Path(sys.prefix) / "transformers-tests" / transformers.__version__ / "tests"
NAME = "transformers_common_tests"

if not (FOLDER / "test_modeling_common.py").is_file():
    pytest.skip(f"no tests of transformers {transformers.__version__} here: make venv", allow_module_level=True)


def load():
    """The module of common tests, its missing neighbours replaced by empty classes."""
    package = types.ModuleType(NAME)
    package.__path__ = [str(FOLDER)]
    sys.modules[NAME] = package
    for module, mixin in (
        ("exporters.test_export", "ExportTesterMixin"),
        ("generation.test_utils", "GenerationTesterMixin"),
    ):
        if not (FOLDER / (module.replace(".", "/") + ".py")).is_file():
            parent = types.ModuleType(f"{NAME}.{module.split('.')[0]}")
            parent.__path__ = []
            empty = types.ModuleType(f"{NAME}.{module}")
            setattr(empty, mixin, type(mixin, (), {}))
            sys.modules |= {parent.__name__: parent, empty.__name__: empty}
    spec = importlib.util.spec_from_file_location(f"{NAME}.test_modeling_common", FOLDER / "test_modeling_common.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


common = load()


class Sizes:
    """A model for the common tests: a configuration, inputs, and sizes."""

    batch_size, seq_length, hidden_size, num_hidden_layers, num_attention_heads = 3, 9, 32, 2, 4
    is_training, vocab_size, encoder_seq_length, key_length = True, 99, 9, 9

    def __init__(self, parent):
        self.parent = parent

    def get_config(self):
        return MDLMConfig(
            vocab_size=self.vocab_size, hidden_size=self.hidden_size, intermediate_size=64, mask_token_id=3,
            num_hidden_layers=self.num_hidden_layers, num_attention_heads=self.num_attention_heads,
            max_position_embeddings=64, bos_token_id=0, eos_token_id=1, pad_token_id=2,
        )  # fmt: skip

    def prepare_config_and_inputs_for_common(self):
        ids = torch.randint(4, 80, (self.batch_size, self.seq_length))
        ids[:, ::2] = 3
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class TestCommon(common.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (MDLMModel, MDLMForMaskedDiffusion)

    # Not of ours: it demands the mixin of generation tests, which is not shipped; tests/modeling/ has ours.
    test_generation_tester_mixin_inheritance = None

    def setUp(self):
        self.model_tester = Sizes(self)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels and model_class is MDLMForMaskedDiffusion:
            inputs["labels"] = torch.full_like(inputs["input_ids"], 7)
        return inputs

    def test_batching_equivalence(self):
        # Logits are -inf at the mask, which the test takes for a fault; test_generation.py has padded rows against single ones.
        self.all_model_classes = (MDLMModel,)
        super().test_batching_equivalence()

    def test_training(self):
        self.all_model_classes = (MDLMForMaskedDiffusion,)  # a trunk does not compute a loss
        super().test_training()

    def check_training_gradient_checkpointing(self, *args, **kwargs):
        self.all_model_classes = (MDLMForMaskedDiffusion,)
        super().check_training_gradient_checkpointing(*args, **kwargs)
