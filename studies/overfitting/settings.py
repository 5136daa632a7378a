"""The settings of the study of overfitting."""

from dataclasses import dataclass

from arche_mdlm.studies.engine.settings import check_least
from arche_mdlm.studies.engine.small.plan import SubsetSettings

ARMS = ("ar", "mdlm")


@dataclass(frozen=True, kw_only=True)
class OverfittingSettings(SubsetSettings):
    """The settings of `arche-mdlm study overfitting`."""

    unique_tokens: int = 1_000_000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, {"unique_tokens": 1000})
