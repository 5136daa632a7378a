"""The noise and the order of each family, and the training objectives of each noise, by name."""

from typing import NamedTuple


class FamilyParts(NamedTuple):
    """The two parts of a family: names of a class of corruption and of a class of order (`family_mdlm`)."""

    noise: str
    order: str


# By `config.diffusion`.
FAMILY_PARTS = {
    "masked": FamilyParts("masked", "whole"),
    "uniform": FamilyParts("uniform", "whole"),
    "block": FamilyParts("masked", "blocks"),
    "uniform_block": FamilyParts("uniform", "blocks"),
    "eso": FamilyParts("masked", "eso"),
}
# By the noise; the first is the bound's own.
OBJECTIVES = {
    "masked": ("nelbo", "low_variance", "masked_mean"),
    "uniform": ("nelbo", "converted", "resampled"),
}
