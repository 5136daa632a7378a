"""arche-mdlm: masked diffusion language models for the Hugging Face stack.

Importing it imports nothing heavy: names are loaded when they are asked for, and the classes are registered with transformers'
Auto classes when those are loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .registration import register_with_auto_classes

if TYPE_CHECKING:
    from .configuration_mdlm import MDLMConfig
    from .generation_mdlm import MDLMGenerationConfig
    from .modeling_mdlm import MDLMForMaskedDiffusion, MDLMModel
    from .samplers_mdlm import Sampler, available_samplers, register_sampler

__version__ = "0.1.0"

__all__ = [
    "MDLMConfig",
    "MDLMForMaskedDiffusion",
    "MDLMGenerationConfig",
    "MDLMModel",
    "Sampler",
    "available_samplers",
    "register_sampler",
]

_MODULES = {
    "MDLMConfig": "configuration_mdlm",
    "MDLMForMaskedDiffusion": "modeling_mdlm",
    "MDLMGenerationConfig": "generation_mdlm",
    "MDLMModel": "modeling_mdlm",
    "Sampler": "samplers_mdlm",
    "available_samplers": "samplers_mdlm",
    "register_sampler": "samplers_mdlm",
}


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # All samplers are in the registry before anybody looks into it: the model imports them.
    if _MODULES[name] == "samplers_mdlm":
        import_module(f"{__name__}.generation_mdlm")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_with_auto_classes()
