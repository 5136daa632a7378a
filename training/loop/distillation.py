"""The teacher of a distillation: an earlier state of the student, which says what it would predict of less noise."""

from copy import deepcopy
from typing import Any

import torch
from transformers import PreTrainedModel

from arche_mdlm.configuration.settings import TrainingSettings
from arche_mdlm.training.batches.consistency import teacher_loss


class Teacher:
    """A frozen copy of a model, renewed every `training.distillation_steps` steps.

    Args:
        model: the student, on the device where both will run.
    """

    def __init__(self, model: PreTrainedModel, settings: TrainingSettings) -> None:
        self.settings = settings
        self.model = deepcopy(model).eval().requires_grad_(False)

    def guide(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The student's inputs, with the loss that follows the teacher at the labelled positions."""
        own = {name: value for name, value in inputs.items() if not name.startswith("teacher_")}
        positions = own.get("positions")
        where = own["labels"].ne(-100) if positions is None else positions
        backward = self.settings.distillation_divergence == "backward"
        loss = teacher_loss(
            self.model, backward, where, input_ids=inputs["teacher_input_ids"], timesteps=inputs["teacher_timesteps"]
        )
        return own | {"objective": loss}

    def after_step(self, step: int, student: PreTrainedModel) -> None:
        """Take the student's weights where `step`, the number of steps made, asks for it."""
        assert self.settings.distillation_steps is not None
        if step % self.settings.distillation_steps == 0:
            self.model.load_state_dict(student.state_dict())

    def state(self) -> dict[str, torch.Tensor]:
        """For a checkpoint."""
        return {name: value.detach().cpu() for name, value in self.model.state_dict().items()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Of a checkpoint."""
        self.model.load_state_dict(state)
