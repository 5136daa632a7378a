"""The pictures of the study of few unique tokens: held-out losses, and endings told from corrupted ones, during training."""

from functools import partial
from typing import Any

from arche_mdlm.studies.data_limited.conclusions import LABELS
from arche_mdlm.studies.engine.colours import ARMS
from arche_mdlm.studies.engine.plots import REFERENCE, finish, save, subplots
from arche_mdlm.training.files.own_files import OutputFolder

PICTURES = ("curves.png", "endings.png")


def draw(report: dict, output: OutputFolder) -> dict[str, str]:
    """Write the pictures that there is data for; captions by file name."""
    if not report["sizes"]:
        return {}
    output.write("curves.png", partial(save, _panels(report, "held_out", "nats a token (MDLM: bound)")))
    captions = {
        "curves.png": "Held-out loss during training, a line a training: AR (thin: each weight decay and dropout) and MDLM's bound"
    }
    if any(run["endings"] for run in report["runs"].values()):
        figure = _panels(report, "endings", "share of rows whose true ending is likelier", tuned_only=True, level=0.5)
        output.write("endings.png", partial(save, figure))
        captions["endings.png"] = (
            "Share of held-out rows whose true ending is likelier than another row's, a line a seed: AR of the weight decay and dropout with the "
            "lowest held-out loss, and MDLM by its bound; dots: where the held-out loss is lowest; dashed: chance"
        )
    return captions


def _panels(report: dict, key: str, label: str, tuned_only: bool = False, level: float | None = None) -> Any:
    """A panel a size, a line a training, each on its own grid of steps."""
    sizes = list(report["sizes"])
    figure, axes = subplots(1, len(sizes), size=(4.2 * len(sizes) + 0.6, 4), squeeze=False, sharey=True)
    tuned = {one["tuned"] for own in report["sizes"].values() for one in own["seeds"].values()}
    for axis, size in zip(axes[0], sizes, strict=True):
        if level is not None:
            axis.axhline(level, **REFERENCE)
        named = set()
        for name, run in report["runs"].items():
            is_other = tuned_only and run["arm"] == "ar" and name not in tuned
            if str(run["size"]) != size or run[key] is None or is_other:
                continue
            arm = LABELS[run["arm"]]
            width = 1.8 if tuned_only or run["arm"] == "mdlm" else 0.8
            axis.plot(run["grid"], run[key], color=ARMS[arm], lw=width, label=None if arm in named else arm)
            if tuned_only:
                best = run["grid"].index(run["best_step"])
                axis.plot(run["best_step"], run[key][best], "o", color=ARMS[arm])
            named.add(arm)
        axis.set(title=f"{int(size):,} unique tokens", xlabel="steps", xscale="log")
        finish(axis, legend=bool(named))
    axes[0][0].set_ylabel(label)
    return figure
