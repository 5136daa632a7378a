"""Pipelines beyond the stock ones of transformers; importing this package registers them with `pipeline(...)`.

`import arche_mdlm` alone does not register them, because the model code ships in checkpoints without this package.
"""

from pathlib import Path

from .text_infilling import TextInfillingPipeline, register

# In a checkout the pair that ships with it; an installed package has none, and asks the Hub.
_SHIPPED = Path(__file__).parents[1] / "checkpoints" / "mdlm-tinystories-mini"
DEFAULT_MODEL = str(_SHIPPED) if _SHIPPED.is_dir() else "arche/mdlm-tinystories"

register(DEFAULT_MODEL)

__all__ = ["DEFAULT_MODEL", "TextInfillingPipeline"]
