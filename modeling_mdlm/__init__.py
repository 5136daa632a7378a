"""arche-mdlm: masked diffusion language models for the Hugging Face stack.

Importing it registers the classes with transformers' Auto classes.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from .configuration_mdlm import MDLMConfig
from .generation_config_mdlm import MDLMGenerationConfig
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

AutoConfig.register(MDLMConfig.model_type, MDLMConfig, exist_ok=True)
AutoModel.register(MDLMConfig, MDLMModel, exist_ok=True)
AutoModelForMaskedLM.register(MDLMConfig, MDLMForMaskedDiffusion, exist_ok=True)
AutoModelForCausalLM.register(MDLMConfig, MDLMForMaskedDiffusion, exist_ok=True)
