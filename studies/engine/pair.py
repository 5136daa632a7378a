"""The trained models that a study compares, of one tokenizer: a pair, or several and one autoregressive twin."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from arche_mdlm.training.models.arms import arm_of
from arche_mdlm.training.models.loading import load_arm, load_config
from arche_mdlm.writing.checkpoint_hash import checkpoint_hash


@dataclass(frozen=True)
class Arm:
    """One arm's checkpoint, as the settings of a job have it.

    Args:
        source: folder or repository.
        checkpoint: a hash of its content, so that other weights under the same name are other settings.
        device: where it runs.
    """

    source: str
    checkpoint: str
    device: str = "cpu"

    def load(self) -> tuple[Any, Any]:
        """(model, tokenizer), ready to generate; kept for the next job of this process."""
        return _load(self.source, self.checkpoint, self.device)

    def to_dict(self) -> dict:
        return asdict(self)


@lru_cache(maxsize=2)
def _load(source: str, checkpoint: str, device: str) -> tuple[Any, Any]:
    model, tokenizer = load_arm(source)
    return model.to(device).eval(), tokenizer


def check_pair(mdlm: str, ar: str, device: str = "cpu") -> dict[str, Arm]:
    """The arms as "MDLM" and "AR". ValueError for one that does not load, swapped ones, or different tokenizers."""
    arms = load_arms({"MDLM": mdlm, "AR": ar}, device)
    if [arm_of(arm.load()[0]).label for arm in arms.values()] != list(arms):
        raise ValueError("--mdlm needs a masked diffusion checkpoint and --ar an autoregressive one; are they swapped?")
    check_tokenizers(arms)
    return arms


def check_models(ar: str, models: Mapping[str, str], device: str = "cpu") -> dict[str, Arm]:
    """The arms of diffusion models, by label, and of their twin, which comes first as "AR".

    Raises ValueError for one that does not load, is not what it should be, or has another tokenizer.
    """
    arms = load_arms({"AR": ar, **models}, device)
    for label, arm in arms.items():
        kind = arm_of(arm.load()[0])
        if kind.denoises == (label == "AR"):
            needed = "--ar needs an autoregressive checkpoint" if label == "AR" else "--models takes diffusion models"
            raise ValueError(f"{needed}; {label}={arm.source} is {kind.kind} model")
    check_tokenizers(arms)
    return arms


def load_arms(sources: Mapping[str, str], device: str) -> dict[str, Arm]:
    """ValueError for a checkpoint that does not load."""
    return {name: Arm(source, checkpoint_hash(source, load_config(source)), device) for name, source in sources.items()}


def check_tokenizers(arms: Mapping[str, Arm]) -> None:
    """ValueError where they are not all the same."""
    vocabularies = {name: arm.load()[1].get_vocab() for name, arm in arms.items()}
    first = next(iter(arms))
    for name, vocabulary in vocabularies.items():
        if vocabulary != vocabularies[first]:
            raise ValueError(
                f"the checkpoints of {first} and {name} have different tokenizers; their figures are not comparable"
            )
