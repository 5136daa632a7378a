"""Configuration of a masked diffusion language model."""

from transformers import LlamaConfig

_CHOICES = {
    "diffusion": ("masked",),
    "time_conditioning": ("none", "additive"),
    "noise_schedule": ("linear", "cosine"),
}

# Written into every checkpoint, so that all of the auto classes find the remote code.
AUTO_MAP = {
    "AutoConfig": "configuration_mdlm.MDLMConfig",
    "AutoModel": "modeling_mdlm.MDLMModel",
    "AutoModelForMaskedLM": "modeling_mdlm.MDLMForMaskedDiffusion",
    "AutoModelForCausalLM": "modeling_mdlm.MDLMForMaskedDiffusion",
}


class MDLMConfig(LlamaConfig):
    """A `LlamaConfig` (the trunk is a bidirectional Llama) with what masked diffusion adds.

    Args:
        diffusion: the family; this version knows `"masked"` alone, and refuses the checkpoint of another one.
        bos_token_id, eos_token_id, pad_token_id: of the tokenizer; None, not Llama's 1 and 2, where they are not given.
        mask_token_id: id of the absorbing state; below `vocab_size`.
        output_vocab_size: rows of an untied head; ids from there on are never predicted. Default `vocab_size`.
        time_conditioning: `"none"`, or `"additive"`: an embedding of t is added to the token embeddings.
        attention_block_length: a position sees the positions of its own block of so many, and of the blocks before
            (block-causal, Arriola et al. 2025, arXiv 2503.09573); None: all. Its keys and values never change once its block
            is written, so a cache of them is exact.
        noise_schedule: `"linear"` (alpha = 1 - t) or `"cosine"` (alpha = cos^2(pi t / 2)).
        num_diffusion_steps: default number of sampling steps, used where the generation config has none.

    Raises:
        ValueError: for a choice that does not exist, a mask id outside the vocabulary, a narrow tied head, or a
            schedule or time conditioning the model does not know.
    """

    model_type = "mdlm"
    base_model_fsdp_plan = None
    keys_to_ignore_at_inference = ["past_key_values", "token_nll"]  # what a Trainer's metrics do not see

    diffusion: str = "masked"
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    mask_token_id: int = 0
    output_vocab_size: int | None = None
    attention_block_length: int | None = None
    time_conditioning: str = "none"
    noise_schedule: str = "linear"
    num_diffusion_steps: int = 64
    use_cache: bool = False

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.output_vocab_size is None:
            self.output_vocab_size = self.vocab_size
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}")
        if not 0 <= self.mask_token_id < self.vocab_size:
            raise ValueError(
                f"mask_token_id={self.mask_token_id} is not in the vocabulary (0 to {self.vocab_size - 1})"
            )
        if not 0 < self.output_vocab_size <= self.vocab_size:
            raise ValueError(f"output_vocab_size={self.output_vocab_size} is not in 1 to vocab_size={self.vocab_size}")
        if self.tie_word_embeddings and self.output_vocab_size != self.vocab_size:
            raise ValueError(
                f"output_vocab_size={self.output_vocab_size} needs tie_word_embeddings=False: a tied head has "
                f"vocab_size={self.vocab_size} rows"
            )
        if self.attention_block_length is not None and self.attention_block_length < 1:
            raise ValueError(f"attention_block_length={self.attention_block_length} must be at least 1, or None")
        if self.num_diffusion_steps < 1:
            raise ValueError(f"num_diffusion_steps={self.num_diffusion_steps} must be at least 1")
        self.auto_map = dict(AUTO_MAP)


# Makes save_pretrained copy the code beside the config.
MDLMConfig.register_for_auto_class()
