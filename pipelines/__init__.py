"""Pipelines beyond the stock ones of transformers; importing this package registers them with `pipeline(...)`.

`import arche_mdlm` alone does not: the model code imports nothing from above it, and is what ships in a checkpoint.
"""

from .text_infilling import TextInfillingPipeline, register

register()

__all__ = ["TextInfillingPipeline"]
