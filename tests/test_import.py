"""`import arche_mdlm` is light, and transformers' Auto classes know the model whichever comes first."""

import subprocess
import sys

import pytest


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_import_loads_nothing_heavy():
    found = python(
        "import sys, torch, transformers\nbefore = set(sys.modules)\nimport arche_mdlm\n"
        "print(*sorted(m for m in set(sys.modules) - before if not m.startswith('arche_mdlm')))"
    )
    assert not {name.split(".")[0] for name in found.split()} - {"importlib"}, found


@pytest.mark.parametrize(
    "first",
    [
        "import arche_mdlm",
        "from transformers import AutoModel",
        "from transformers import LlamaConfig",
        "import transformers.pipelines",
    ],
)
def test_auto_classes_know_the_model(first):
    found = python(
        f"{first}\nimport arche_mdlm\nfrom transformers import AutoConfig, AutoModel, AutoModelForCausalLM\n"
        "from transformers import AutoModelForMaskedLM\n"
        "config = AutoConfig.for_model('mdlm', vocab_size=20, mask_token_id=19, hidden_size=8, intermediate_size=8,\n"
        "    num_hidden_layers=1, num_attention_heads=2)\n"
        "for auto in (AutoModel, AutoModelForMaskedLM, AutoModelForCausalLM):\n"
        "    print(type(auto.from_config(config)).__name__)"
    )
    assert found.split() == ["MDLMModel", "MDLMForMaskedDiffusion", "MDLMForMaskedDiffusion"]


def test_names_are_loaded_when_asked_for():
    found = python(
        "import arche_mdlm\nprint(*arche_mdlm.available_samplers())\nprint(arche_mdlm.MDLMConfig.model_type)\n"
        "print('MDLMModel' in dir(arche_mdlm))\n"
        "from arche_mdlm import *\nprint(MDLMForMaskedDiffusion.__name__)\n"
        "try:\n    arche_mdlm.MDLMModle\nexcept AttributeError as error:\n    print(error)"
    ).splitlines()
    assert {"ancestral", "remdm", "arche"} <= set(found[0].split())
    assert found[1:4] == ["mdlm", "True", "MDLMForMaskedDiffusion"]
    assert found[4] == "module 'arche_mdlm' has no attribute 'MDLMModle'"


def test_saving_copies_the_code(tmp_path):
    """However the class was imported."""
    python(
        "from arche_mdlm.modeling_mdlm import MDLMForMaskedDiffusion\n"
        "from arche_mdlm.configuration_mdlm import MDLMConfig\n"
        "config = MDLMConfig(vocab_size=20, mask_token_id=19, hidden_size=8, intermediate_size=8, num_hidden_layers=1,\n"
        f"    num_attention_heads=2)\nMDLMForMaskedDiffusion(config).save_pretrained({str(tmp_path)!r})"
    )
    assert {"modeling_mdlm.py", "configuration_mdlm.py", "head_loss_mdlm.py"} <= {p.name for p in tmp_path.iterdir()}
