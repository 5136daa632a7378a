"""Times of import and load, each in a fresh process, as a user sees them."""

import subprocess
import sys
from collections.abc import Callable

from benchmarks.report import REPOSITORY

_LOAD = "import arche_mdlm\nfrom transformers import AutoModelForCausalLM\nAutoModelForCausalLM.from_pretrained('checkpoints/{}')"
_CODE = {
    "alone": "import torch, transformers",
    "ours": "import torch, transformers\nimport arche_mdlm",
    "load_mdlm": _LOAD.format("mdlm-tinystories-mini"),
    "load_ar": _LOAD.format("ar-tinystories-mini"),
}


def contestants() -> dict:
    return {name: (_process(code), 1) for name, code in _CODE.items()}


def _process(code: str) -> Callable[[], None]:
    def run() -> None:
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=REPOSITORY)

    return run
