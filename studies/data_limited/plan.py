"""Few unique tokens as jobs: MDLM, and AR over weight decay and dropout, on the same random subset a seed and size.

`arche-mdlm study data-limited --data stories.jsonl --dry_run`

Claim of Prabhudesai et al. 2025 (arXiv 2507.15857) and Ni et al. 2025 (arXiv 2511.03276): where unique data is scarce and epochs are
many, diffusion reaches a lower loss than AR. AR is tuned here, as a regularised one overfits later.
"""

import math
from dataclasses import dataclass
from itertools import product

from arche_mdlm.studies.engine.jobs import Plan
from arche_mdlm.studies.engine.small.plan import SubsetSettings, subset_job, training_job, whole_plan


@dataclass(frozen=True, kw_only=True)
class DataLimitedSettings(SubsetSettings):
    """The settings of `arche-mdlm study data-limited`."""

    unique_tokens: tuple[int, ...] = (100_000, 300_000, 1_000_000)
    weight_decays: tuple[float, ...] = (0.0, 0.1, 1.0)
    dropouts: tuple[float, ...] = (0.0, 0.1, 0.3)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least, most in (
            ("unique_tokens", 1000, math.inf),
            ("weight_decays", 0, math.inf),
            ("dropouts", 0, 0.99),
        ):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values) or min(values) < least or max(values) > most:
                raise ValueError(f"{name}={list(values)} must be different numbers of at least {least}"
                                 + ("" if most == math.inf else f" and at most {most}"))  # fmt: skip


def build_plan(settings: DataLimitedSettings, device: str = "cpu") -> Plan:
    """All jobs, with estimates; a seed's before those of the next one, the smallest subset first."""
    jobs, trainings = [], {}
    for seed in settings.seeds:
        for size in settings.unique_tokens:
            subset = subset_job(settings, size, seed)
            jobs.append(subset)
            about = {"seed": seed, "size": size, "subset": subset.name}
            job = training_job(settings, subset, "mdlm", "mdlm", device)
            trainings[job.name] = about | {"arm": "mdlm"}
            jobs.append(job)
            for decay, dropout in product(settings.weight_decays, settings.dropouts):
                own = {"training.weight_decay": decay, "model.config.attention_dropout": dropout}
                job = training_job(settings, subset, "ar", f"ar-wd{decay:g}-do{dropout:g}", device, **own)
                trainings[job.name] = about | {"arm": "ar", "weight_decay": decay, "dropout": dropout}
                jobs.append(job)
    return whole_plan(settings, jobs, trainings, "arche_mdlm.studies.data_limited.jobs:summarise")
