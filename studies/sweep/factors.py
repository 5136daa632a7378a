"""The arms of a sweep, and what is varied."""

ARMS = ("ar", "mdlm")
FACTORS = ("rate", "decay_share", "batch_size")
