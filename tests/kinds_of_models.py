"""Kinds of small models in the tests of evaluation, with the settings of each."""

CONTEXT = 40
KINDS = {
    "masked": {}, "uniform": {"time_conditioning": "log_snr"}, "block": {"attention_block_length": 4},
    "uniform_block": {"time_conditioning": "log_snr", "attention_block_length": 4}, "eso": {"alpha_0": 0.5}, "ar": {},
}  # fmt: skip
