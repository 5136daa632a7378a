"""Optimisers and their learning rates."""

import math
from typing import Any, cast

import torch
from torch import nn

from arche_mdlm.configuration.settings import TrainingSettings


def learning_rate(step: int, settings: TrainingSettings, peak: float | None = None) -> float:
    """The rate of a step (0-based): linear warm-up to the peak, then the schedule, down to `min_lr_ratio` of the peak.

    `"cosine"` falls until `max_steps`. `"warmup_stable_decay"` stays at the peak and falls linearly over the last `decay_share`
    of `max_steps` (Hu et al. 2024, arXiv 2404.06395): until there, runs of any length are one and the same run.

    Args:
        peak: default `settings.learning_rate`.
    """
    peak = settings.learning_rate if peak is None else peak
    if step < settings.warmup_steps:
        return peak * (step + 1) / settings.warmup_steps
    if settings.schedule == "warmup_stable_decay":
        first = decay_start(settings.max_steps, settings.decay_share)
        left = 1 - (step - first) / max(1, settings.max_steps - first)
        share = min(max(left, 0.0), 1.0)
    else:
        progress = (step - settings.warmup_steps) / max(1, settings.max_steps - settings.warmup_steps)
        share = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return peak * (settings.min_lr_ratio + (1 - settings.min_lr_ratio) * share)


def decay_start(max_steps: int, decay_share: float) -> int:
    """The step at which the rate of a `"warmup_stable_decay"` run of `max_steps` begins to fall."""
    return round((1 - decay_share) * max_steps)


def build_optimizers(
    model: nn.Module, settings: TrainingSettings, device: torch.device | None = None
) -> list[torch.optim.Optimizer]:
    """The optimisers of a run; each group of parameters has its peak rate under `"peak"`.

    `"adamw"`: fused AdamW for everything. `"muon"`: Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/;
    PyTorch's own, or `Float32Muon`) at `muon_learning_rate` for the matrices of the layers, AdamW for the rest: embeddings, head, norms, biases.
    Weight decay on matrices only, or on all (`decay_all`, as the arche paper has it).

    Args:
        device: that the model will be trained on; default: where it is.

    Raises:
        ValueError: for `"muon"` where this version of PyTorch has none.
    """
    if settings.optimizer == "muon" and not hasattr(torch.optim, "Muon"):
        raise ValueError(f"training.optimizer='muon' needs PyTorch 2.9 or newer, not {torch.__version__}")
    matrices = _matrices(model) if settings.optimizer == "muon" else []
    taken = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in taken]
    optimizers: list[torch.optim.Optimizer] = [_adamw(others, settings)]
    if matrices:
        optimizers.append(
            _muon(device or matrices[0].device, settings)(
                [{"params": matrices, "peak": settings.muon_learning_rate}],
                lr=settings.muon_learning_rate,
                weight_decay=settings.weight_decay,
            )
        )
    return optimizers


def _muon(device: torch.device, settings: TrainingSettings) -> type[torch.optim.Muon]:
    """PyTorch's works in bfloat16, which only a run that trains in it has a CPU's units for."""
    if device.type != "cpu" or settings.mixed_precision == "bf16":
        return torch.optim.Muon
    from arche_mdlm.training.loop.muon import Float32Muon  # PyTorch before 2.9 has no Muon to derive it from

    return Float32Muon


def _matrices(model: nn.Module) -> list[nn.Parameter]:
    """Weights of the linear layers of the trunk; neither embeddings nor the head, tied or not."""
    head = cast(Any, model).get_output_embeddings()
    linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    return [cast(nn.Parameter, module.weight) for module in linear if module.weight.requires_grad]


def _adamw(parameters: list[nn.Parameter], settings: TrainingSettings) -> torch.optim.AdamW:
    decayed = [p for p in parameters if settings.decay_all or p.dim() > 1]
    rest = [p for p in parameters if not (settings.decay_all or p.dim() > 1)]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    groups = [group | {"peak": settings.learning_rate} for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)
