"""Kinds of tiny models that servers and terminals are tested with."""

# Of each family: the changes of the configuration.
FAMILIES = {
    "masked": {},
    "uniform": {"diffusion": "uniform", "time_conditioning": "log_snr"},
    "block": {"diffusion": "block", "attention_block_length": 8},
    "uniform_block": {"diffusion": "uniform_block", "attention_block_length": 8, "time_conditioning": "log_snr"},
    "eso": {"diffusion": "eso", "alpha_0": 0.5},
}
KINDS = ["ar", *FAMILIES]
