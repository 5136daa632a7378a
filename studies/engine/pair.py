"""The trained pair that a study compares: an MDLM and its autoregressive twin, of one tokenizer."""

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
    sources = {"MDLM": mdlm, "AR": ar}
    arms = {name: Arm(s, checkpoint_hash(s, load_config(s)), device) for name, s in sources.items()}
    (mdlm_model, tokenizer), (ar_model, other) = (arm.load() for arm in arms.values())
    if [arm_of(model).label for model in (mdlm_model, ar_model)] != list(sources):
        raise ValueError("--mdlm needs a masked diffusion checkpoint and --ar an autoregressive one; are they swapped?")
    if tokenizer.get_vocab() != other.get_vocab():
        raise ValueError("the two checkpoints have different tokenizers; their figures could not be compared")
    return arms
