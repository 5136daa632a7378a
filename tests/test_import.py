"""Importing `arche_mdlm` registers the model with transformers' Auto classes, in any order and any thread."""

import subprocess
import sys

import pytest


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


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


def test_the_model_is_known_while_another_thread_imports_transformers():
    found = python(
        "import sys, threading\nimport arche_mdlm\nfrom transformers import AutoConfig, AutoModel\n"
        "sys.setswitchinterval(1e-5)\n"
        "def load():\n"
        "    import transformers.pipelines, transformers.trainer, transformers.models.bert.modeling_bert\n"
        "thread = threading.Thread(target=load)\nthread.start()\ncalls, failed = 0, 0\n"
        "while thread.is_alive() or calls < 5:\n"
        "    calls += 1\n"
        "    try:\n"
        "        config = AutoConfig.for_model('mdlm', vocab_size=20, mask_token_id=19, hidden_size=8, intermediate_size=8,\n"
        "            num_hidden_layers=1, num_attention_heads=2)\n"
        "        AutoModel.from_config(config)\n"
        "    except Exception as error:\n"
        "        failed += 1\n"
        "print(failed, calls >= 5)"
    )
    assert found == "0 True"


def test_names():
    found = python(
        "import arche_mdlm\nprint(*arche_mdlm.available_samplers())\n"
        "from arche_mdlm import *\nprint(MDLMForMaskedDiffusion.__name__)\n"
        "import importlib\nimportlib.reload(arche_mdlm)"
    ).splitlines()
    assert {"ancestral", "remdm", "arche"} <= set(found[0].split())
    assert found[1] == "MDLMForMaskedDiffusion"


def test_saving_copies_the_code(tmp_path):
    """However the class was imported."""
    python(
        "from arche_mdlm.modeling_mdlm import MDLMForMaskedDiffusion\n"
        "from arche_mdlm.configuration_mdlm import MDLMConfig\n"
        "config = MDLMConfig(vocab_size=20, mask_token_id=19, hidden_size=8, intermediate_size=8, num_hidden_layers=1,\n"
        f"    num_attention_heads=2)\nMDLMForMaskedDiffusion(config).save_pretrained({str(tmp_path)!r})"
    )
    assert {"modeling_mdlm.py", "configuration_mdlm.py", "head_loss_mdlm.py"} <= {p.name for p in tmp_path.iterdir()}
