"""Notes on settings without effect: not errors, since both arms share a preset's settings."""

from collections.abc import Collection

from arche_mdlm.configuration.settings import Preset
from arche_mdlm.training.models.arms import DIFFUSION, arm_of_architecture

# Settings that a number of steps switches on.
_SWITCHES = {
    "curriculum_steps": ("curriculum_tau", "curriculum_alpha"),
    "distillation_steps": ("distillation_distance", "distillation_alpha", "distillation_divergence"),
}


def without_effect(preset: Preset, explicit: Collection[str], fine_tuned: bool) -> list[str]:
    """A note for each key of the command line without effect in this run."""
    training, data = preset.training, preset.data
    diffusion, rows = arm_of_architecture(preset.model.architecture) is DIFFUSION, data.layout == "rows"
    an_ar_arm, no_rows = "an AR arm", f"data.layout={data.layout!r}"
    without = {
        f"training.{name}": (
            diffusion and getattr(training, switch) is not None,
            f"training.{switch}=null" if diffusion else an_ar_arm,
        )
        for switch, names in _SWITCHES.items()
        for name in names
    } | {
        "training.time_sampling": (diffusion, an_ar_arm),
        "training.time_window": (diffusion, an_ar_arm),
        "training.given_share": (diffusion, an_ar_arm),
        "training.curriculum_steps": (diffusion, an_ar_arm),
        "training.length_multiple": (diffusion and rows, no_rows if diffusion else an_ar_arm),
        "training.short_canvas_share": (diffusion and rows, no_rows if diffusion else an_ar_arm),
        "training.eval_samples": (diffusion, an_ar_arm),
        "training.length_pool": (rows, no_rows),
        "training.muon_learning_rate": (training.optimizer == "muon", f"training.optimizer={training.optimizer!r}"),
        "training.decay_share": (
            training.schedule == "warmup_stable_decay",
            f"training.schedule={training.schedule!r}",
        ),
        "training.compile_mode": (training.compile, "training.compile=false"),
        "data.stopping": (bool(data.weights), "one source (data.weights=[])"),
        "data.vocab_size": (data.tokenizer == "bpe" and not fine_tuned, "a tokenizer that is there already"),
    }
    return [
        f"note: {key} has no effect with {why}" for key, (has, why) in without.items() if key in explicit and not has
    ]


def about_the_loss(preset: Preset) -> list[str]:
    """A note where the loss that training logs is not what the objective's name says."""
    training = preset.training
    if arm_of_architecture(preset.model.architecture) is not DIFFUSION:
        return []
    notes = []
    if (steps := training.curriculum_steps) is not None:
        notes.append(
            f"note: the training loss of the first {steps} steps (training.curriculum_steps) is not a bound, and its scale differs from "
            "that of later steps; validation is the NELBO throughout"
        )
    if training.distillation_steps is not None:
        notes.append(
            "note: the training loss is the divergence of student and teacher (training.distillation_steps), in nats a token; validation is "
            "the NELBO, which may rise; the last step is exported"
        )
    return notes
