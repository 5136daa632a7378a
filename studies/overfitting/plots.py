"""The picture of the study of overfitting: loss against tokens seen."""

from functools import partial
from typing import Any

from arche_mdlm.studies.engine.colours import ARMS
from arche_mdlm.studies.engine.plots import finish, save, subplots
from arche_mdlm.training.files.own_files import OutputFolder

PICTURES = ("curves.png",)
_LABELS = {"ar": "AR", "mdlm": "MDLM"}


def draw(report: dict, output: OutputFolder) -> dict[str, str]:
    """Write the curves; captions by file name."""
    if not report["arms"]:
        return {}
    output.write("curves.png", partial(save, _curves(report)))
    band = "; bands: 95 % intervals over seeds" if len(report["settings"]["seeds"]) > 1 else "; one seed"
    return {
        "curves.png": f"Loss during training, mean over seeds: solid on held-out stories, dashed on training rows{band}"
    }


def _curves(report: dict) -> Any:
    """A panel an arm: the two losses are not comparable, as MDLM's is a bound."""
    arms = [arm for arm in _LABELS if arm in report["arms"]]
    figure, axes = subplots(1, len(arms), size=(5.2 * len(arms), 4.2), squeeze=False)
    for axis, arm in zip(axes[0], arms, strict=True):
        own, colour = report["arms"][arm], ARMS[_LABELS[arm]]
        x = [tokens / 1e6 for tokens in own["tokens"]]
        for part, style, label in (("held_out", "-", "held out"), ("train", "--", "training rows")):
            points = own["bands"][part]
            axis.plot(x, [point["estimate"] for point in points], style, color=colour, lw=1.8, label=label)
            if points[0]["low"] is not None:
                axis.fill_between(
                    x, [p["low"] for p in points], [p["high"] for p in points], color=colour, alpha=0.15, lw=0
                )
        axis.set(title=_LABELS[arm], xlabel="million tokens seen")
        finish(axis, legend=True)
    axes[0][0].set_ylabel("nats a token (MDLM: bound)")
    return figure
