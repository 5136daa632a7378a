"""The settings of the study of the paper's protocol; imports nothing heavy, as the help reads them."""

from dataclasses import dataclass

from arche_mdlm.configuration.presets import load_preset
from arche_mdlm.configuration.settings import Preset
from arche_mdlm.studies.engine.settings import check_least, check_temperature
from arche_mdlm.training.arguments import parse_changes


@dataclass(frozen=True)
class ArcheSettings:
    """The settings of `arche-mdlm study arche`; the defaults are the paper's.

    Args:
        seed: of training and sampling.
        seeds: several, in place of `seed`; figures are then means over them.
        likelihood_rows: held-out rows or windows on which each model's likelihood is compared with a bigram's.
    """

    preset: str = "arche-paper"
    data: str | None = None
    validation_data: str | None = None
    max_steps: int | None = None
    changes: tuple[str, ...] = ()
    num_samples: int = 1000
    short_length: int = 128
    num_diffusion_steps: int = 100
    temperature: float = 0.8
    batch_size: int = 50
    seed: int = 42
    seeds: tuple[int, ...] | None = None
    likelihood_rows: int = 200

    def __post_init__(self) -> None:
        least = {
            "num_samples": 4,
            "short_length": 6,
            "num_diffusion_steps": 1,
            "batch_size": 1,
            "seed": 0,
            "likelihood_rows": 1,
        }
        check_least(self, least)
        if self.seeds is not None and (not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0):
            raise ValueError(f"seeds={list(self.seeds)} must be different numbers of at least 0")
        check_temperature(self)

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """`seeds`, or the one."""
        return (self.seed,) if self.seeds is None else self.seeds

    def changed(self, layout: str, seed: int) -> dict:
        changes = parse_changes(self.changes)
        return changes | {"training.max_steps": self.max_steps, "training.seed": seed, "data.layout": layout}

    def arm(self, name: str, layout: str, seed: int) -> Preset:
        preset = load_preset(f"{self.preset}-{name}", self.changed(layout, seed) | {"data.source": self.data})
        if not self.short_length < preset.data.context_length:
            raise ValueError(
                f"short_length={self.short_length} must be below data.context_length={preset.data.context_length}"
            )
        return preset
