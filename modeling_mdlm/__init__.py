"""arche-mdlm: masked diffusion language models for the Hugging Face stack."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from .configuration_mdlm import MDLMConfig
from .generation_mdlm import MDLMGenerationConfig
from .modeling_mdlm import MDLMForMaskedDiffusion, MDLMModel
from .samplers_mdlm import Sampler, available_samplers, register_sampler

__version__ = "0.1.0"

AutoConfig.register("mdlm", MDLMConfig)
AutoModel.register(MDLMConfig, MDLMModel)
AutoModelForMaskedLM.register(MDLMConfig, MDLMForMaskedDiffusion)
AutoModelForCausalLM.register(MDLMConfig, MDLMForMaskedDiffusion)

# Makes save_pretrained copy the code beside the weights; the config's own auto_map names the rest of the classes.
MDLMConfig.register_for_auto_class()
MDLMModel.register_for_auto_class("AutoModel")
MDLMForMaskedDiffusion.register_for_auto_class("AutoModelForCausalLM")

__all__ = [
    "MDLMConfig",
    "MDLMForMaskedDiffusion",
    "MDLMGenerationConfig",
    "MDLMModel",
    "Sampler",
    "available_samplers",
    "register_sampler",
]
