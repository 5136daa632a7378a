"""What a fine-tuning has changed: the likelihood of held-out text and two texts, before and after, printed at its end."""

from pathlib import Path

import torch

from arche_mdlm.training.models.arms import arm_of
from arche_mdlm.training.models.loading import context_length, load_arm

_TEXTS, _TOKENS, _STEPS = 2, 60, 64
_READABLE = 0.7  # the temperature of the texts


def show_change(base: str | Path, tuned: Path, history: list[dict], step: int) -> None:
    """Print it.

    Args:
        base: the checkpoint that the run started from.
        tuned: that which it made.
        history: the run's log, with an evaluation at step 0.
        step: the one of `tuned`.
    """
    scores = {entry["step"]: entry for entry in history if "validation_nats" in entry}
    if 0 in scores and step in scores:
        before, after = (scores[number]["validation_nats"] for number in (0, step))
        error = scores[step]["validation_standard_error"]
        print(
            f"held-out text, nats a token (lower is better): {before:.4f} before, {after:.4f} after"
            + (f" (+- {error:.4f})" if error else "")
        )
    for name, source in (("before", base), ("after", tuned)):
        for number, text in enumerate(sample_texts(source), 1):
            print(f"\n{name}, text {number}: {text}")
    print(f"\nmore: arche-mdlm generate {tuned} --temperature {_READABLE}")


def sample_texts(source: str | Path) -> list[str]:
    """The beginnings of two texts, each from its own seed, always the same of the same weights."""
    model, tokenizer = load_arm(source)
    inputs = tokenizer([""], return_tensors="pt")
    arm, length = arm_of(model), min(_TOKENS, context_length(model))
    options = {
        "do_sample": True,
        "temperature": _READABLE,
        "top_k": 0,
        "max_length": length,
        **arm.step_options(_STEPS),
    }
    texts = []
    with torch.random.fork_rng(devices=[]):
        for seed in range(_TEXTS):
            given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            ids = arm.generate(model.eval(), given, [seed], options).sequences[0]
            texts.append(" ".join(tokenizer.decode(ids, skip_special_tokens=True).split()))
    return texts
