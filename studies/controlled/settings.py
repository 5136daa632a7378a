"""The settings of the controlled comparison; imports nothing heavy, as the help reads them."""

import math
from dataclasses import dataclass

from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.configuration.settings import Preset
from arche_mdlm.studies.engine.settings import check_least
from arche_mdlm.training.arguments import parse_changes

MDLM_OBJECTIVES = ("nelbo", "low_variance", "masked_mean")
PROMPTS = ("bos", "opening")


@dataclass(frozen=True)
class ControlledSettings:
    """The settings of `arche-mdlm study controlled`."""

    preset: str = "controlled"
    data: str | None = None
    validation_data: str | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    objectives: tuple[str, ...] = MDLM_OBJECTIVES
    max_steps: int | None = None
    changes: tuple[str, ...] = ()  # KEY=VALUE of the preset, for both arms
    num_samples: int = 1000
    temperatures: tuple[float, ...] = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
    prompts: tuple[str, ...] = PROMPTS
    num_diffusion_steps: int = 128
    batch_size: int = 50  # of sampling
    cut_tokens: int = 100  # texts are compared whole, and cut to so many tokens
    likelihood_samples: int = 16
    exact_stories: int = 20  # held-out stories whose exact left-to-right likelihood MDLM is asked for
    matched: bool = True  # AR at the likelihood of the first objective of MDLM, too
    judge: str = "none"
    judge_samples: int | None = None  # the judge sees the first so many texts of a set; None: all
    scale: str = ""  # a name for the reports; the preset's where none is given

    def __post_init__(self) -> None:
        for name, allowed in (("objectives", MDLM_OBJECTIVES), ("prompts", PROMPTS)):
            values = getattr(self, name)
            if not values or set(values) - set(allowed) or len(set(values)) < len(values):
                raise ValueError(f"{name}={list(values)} must be different ones of {', '.join(allowed)}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds={list(self.seeds)} must be different numbers of at least 0")
        values = self.temperatures
        if 1.0 not in values or not all(0 < v < math.inf for v in values) or len(set(values)) < len(values):
            raise ValueError(f"temperatures={list(values)} must be different ones above 0, and 1.0 among them")
        least = {"num_samples": 4, "num_diffusion_steps": 1, "batch_size": 1, "cut_tokens": 5, "likelihood_samples": 2,
                 "exact_stories": 2}  # fmt: skip
        check_least(self, least)
        if self.judge_samples is not None and self.judge_samples < 2:
            raise ValueError(f"judge_samples={self.judge_samples} must be at least 2")

    def arm(self, name: str, objective: str | None = None, seed: int = 0) -> Preset:
        """The preset of an arm, with the changes asked for; ValueError where it does not fit the protocol."""
        changes = parse_changes(self.changes)
        changes |= {"training.max_steps": self.max_steps, "data.source": self.data, "training.seed": seed}
        if objective is not None:
            changes["training.objective"] = objective
        preset = load_preset(f"{self.preset}-{name}", changes)
        if preset.data.layout != "rows":
            raise ValueError(
                f"data.layout={preset.data.layout!r}: the controlled comparison needs 'rows', one story per row"
            )
        return preset
