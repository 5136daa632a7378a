"""Pipelines beyond the stock ones of transformers; importing this package registers them with `pipeline(...)`.

`import arche_mdlm` alone does not register them, because the model code ships in checkpoints without this package.
"""

from arche_mdlm.checkpoints import shipped

from .text_infilling import TextInfillingPipeline, register

DEFAULT_MODEL = str(shipped("mdlm"))

register(DEFAULT_MODEL)

__all__ = ["DEFAULT_MODEL", "TextInfillingPipeline"]
