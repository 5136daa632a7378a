"""Data preparation, objectives and the Accelerate training loop."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arche_mdlm.training.batches.collator import DataCollatorForMaskedDiffusion

__all__ = ["DataCollatorForMaskedDiffusion"]


def __getattr__(name: str) -> Any:
    """The collator, imported when it is asked for: the command line of training starts without PyTorch."""
    if name in __all__:
        from arche_mdlm.training.batches import collator

        return getattr(collator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
