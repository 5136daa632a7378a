"""Configuration of a masked diffusion language model."""

from typing import Any

from transformers import LlamaConfig, Qwen3Config

from .family_parts_mdlm import FAMILY_PARTS

_CHOICES = {
    "diffusion": tuple(FAMILY_PARTS),
    "time_conditioning": ("none", "additive", "log_snr"),
    "noise_schedule": ("linear", "cosine"),
    "denoiser": ("leave_one_out", "full"),
    "parameterization": ("subs", "score"),
}

# Written into every checkpoint, so that all of the auto classes find the remote code.
AUTO_MAP = {
    "AutoConfig": "configuration_mdlm.MDLMConfig",
    "AutoModel": "modeling_mdlm.MDLMModel",
    "AutoModelForMaskedLM": "modeling_mdlm.MDLMForMaskedDiffusion",
    "AutoModelForCausalLM": "modeling_mdlm.MDLMForMaskedDiffusion",
}


class MDLMConfig(LlamaConfig):
    """Configuration of a masked diffusion language model: a `LlamaConfig` (the trunk is a bidirectional Llama) with more fields.

    Args:
        diffusion (`str`, defaults to `"masked"`): the family, a noise and an order (`FAMILY_PARTS`): `"masked"`; `"uniform"`, where noise
            is a random token (UDLM, Duo); `"block"` and `"uniform_block"`, the same in blocks of `attention_block_length` positions,
            from left to right (BD3-LM); `"eso"`, masked diffusion of a share `alpha_0` of the positions and the rest left to right
            (Eso-LM).
        bos_token_id (`int`, *optional*): id of the token that begins a text. Default: None (not Llama's 1).
        eos_token_id (`int` or `list[int]`, *optional*): ids that end a text. Default: None (not Llama's 2).
        pad_token_id (`int`, *optional*): id of the padding.
        mask_token_id (`int`, defaults to 0): id of the mask, the absorbing state; below `vocab_size`.
        output_vocab_size (`int`, *optional*): rows of an untied head; ids from there on are never predicted. Default:
            `vocab_size`.
        attention_block_length (`int`, *optional*): positions in a block of block-causal attention (Arriola et al. 2025,
            arXiv 2503.09573): a position attends to its block and earlier ones. Keys and values of a finished block do not
            change, so a cache of them is exact. None: full attention.
        time_conditioning (`str`, defaults to `"none"`): what is added to the token embeddings: `"additive"`, an embedding of t (the
            arche paper); `"log_snr"`, an embedding of log(alpha / (1 - alpha)), which works with every schedule. Uniform
            noise needs `"log_snr"`, with a noise level per position.
        noise_schedule (`str`, defaults to `"linear"`): `"linear"` (alpha = 1 - t) or `"cosine"` (alpha = cos^2(pi t / 2)).
        alpha_0 (`float`, defaults to 1.0): with `diffusion="eso"`, the share in [0, 1] of the positions that diffusion
            generates: 0 is an autoregressive model, 1 a diffusion model with attention in the order of generation.
        denoiser (`str`, defaults to `"leave_one_out"`): with uniform noise, what the prediction at a position is conditioned on:
            `"leave_one_out"`, the other tokens; `"full"`, also the noisy token at the position.
        parameterization (`str`, defaults to `"subs"`): with masked noise, the output of the head: `"subs"`, logits of the clean token;
            `"score"`, log-scores minus log rho, whose sum may differ from 1 (SEDD, Lou et al. 2024, arXiv 2310.16834).
        prediction_offset (`int`, defaults to 0): with 1, the output at a position predicts the next one, as in an AR model (Dream,
            DiffuLLaMA), so that AR weights keep their task; each text must begin with a given token. Not for blocks.
        attention_output_bias (`bool`, *optional*): whether the output projection of attention has a bias; in Qwen2 it has none, but
            the projections of queries, keys and values have. Default: `attention_bias`.
        qk_norm (`bool`, defaults to False): an RMSNorm over each head of the queries and keys, before the rotary embedding (Qwen3).
        num_diffusion_steps (`int`, defaults to 64): sampling steps if the generation config does not set them.
        use_cache (`bool`, defaults to False): field of `LlamaConfig`, without effect here.
        **kwargs: the fields of `LlamaConfig` (`vocab_size`, `hidden_size`, `num_hidden_layers`, ...).

    Raises:
        ValueError: if a choice does not exist, the mask id is outside the vocabulary, `output_vocab_size` does not fit the
            head, or a length or number of steps is below 1.

    Source: Sahoo et al. 2024, arXiv 2406.07524.

    Example:

    ```python
    >>> from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
    >>> sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    >>> config = MDLMConfig(vocab_size=32, mask_token_id=31, noise_schedule="cosine", **sizes)
    >>> model = MDLMForMaskedDiffusion(config)
    >>> model.config.output_vocab_size
    32
    >>> MDLMConfig(vocab_size=32, mask_token_id=32, **sizes)
    Traceback (most recent call last):
    ValueError: mask_token_id=32 is not in the vocabulary (0 to 31)

    ```
    """

    model_type = "mdlm"
    base_model_fsdp_plan = None  # type: ignore[assignment]  # Llama's, which would not fit
    keys_to_ignore_at_inference = ["past_key_values", "token_nll"]  # what a Trainer's metrics do not see

    diffusion: str = "masked"
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    mask_token_id: int = 0
    output_vocab_size: int | None = None
    attention_block_length: int | None = None
    time_conditioning: str = "none"
    noise_schedule: str = "linear"
    alpha_0: float = 1.0
    denoiser: str = "leave_one_out"
    parameterization: str = "subs"
    prediction_offset: int = 0
    attention_output_bias: bool | None = None
    qk_norm: bool = False
    num_diffusion_steps: int = 64
    use_cache: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
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
        self._check_family()
        if self.prediction_offset not in (0, 1):
            raise ValueError(f"prediction_offset={self.prediction_offset!r} must be 0 or 1")
        if self.num_diffusion_steps < 1:
            raise ValueError(f"num_diffusion_steps={self.num_diffusion_steps} must be at least 1")
        if self.qk_norm:
            self.base_model_tp_plan = Qwen3Config.base_model_tp_plan  # type: ignore[misc]  # Llama's, and the norms
        self.auto_map = dict(AUTO_MAP)

    def _check_family(self) -> None:
        """ValueError for fields that do not work with `diffusion`."""
        family, parts = f"diffusion={self.diffusion!r}", FAMILY_PARTS[self.diffusion]
        uniform = parts.noise == "uniform"
        if parts.order == "blocks" and self.attention_block_length is None:
            raise ValueError(f"{family} needs attention_block_length: the positions of a block")
        if parts.order == "blocks" and self.prediction_offset:
            raise ValueError(
                f"prediction_offset=1 does not work with {family}: the position before a block belongs to another block, which is noisy in "
                "training and clean in sampling; use 'masked' or 'uniform'"
            )
        whose = {"blocks": "blocks are at different times", "eso": "second part has no time"}.get(parts.order)
        if whose is not None and not uniform and self.time_conditioning != "none":
            raise ValueError(
                f"time_conditioning={self.time_conditioning!r} does not work with {family}, whose {whose}: it must be 'none'"
            )
        self._check_eso(family)
        if uniform and self.time_conditioning != "log_snr":
            raise ValueError(
                f"time_conditioning={self.time_conditioning!r} does not work with {family}: a denoiser of uniform noise needs "
                "the noise level of each position: it must be 'log_snr'"
            )
        if uniform and self.parameterization != "subs":
            raise ValueError(f"parameterization={self.parameterization!r} is for masked noise, not for {family}")
        if not uniform and self.denoiser != "leave_one_out":
            raise ValueError(f"denoiser={self.denoiser!r} is for uniform noise, not for {family}")

    def _check_eso(self, family: str) -> None:
        if not 0 <= self.alpha_0 <= 1:
            raise ValueError(f"alpha_0={self.alpha_0} is not in 0 to 1")
        if self.diffusion != "eso":
            if self.alpha_0 != 1:
                raise ValueError(f"alpha_0={self.alpha_0} is for diffusion='eso', not for {family}: it must be 1")
            return
        if self.attention_block_length is not None:
            raise ValueError(
                f"attention_block_length={self.attention_block_length} does not work with {family}, where a position attends to those "
                "generated before it: it must be None"
            )
        if self.prediction_offset:
            raise ValueError(
                f"prediction_offset=1 does not work with {family}: the position before may be generated later"
            )
        if self.parameterization != "subs":
            raise ValueError(
                f"parameterization={self.parameterization!r} does not work with {family}, which needs probabilities: it must be 'subs'"
            )


# Makes save_pretrained copy the code beside the config.
MDLMConfig.register_for_auto_class()
