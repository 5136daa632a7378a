"""The studies that `arche-mdlm study` offers: a folder each, with a module `command` that has `add_arguments` and `run`."""

STUDIES = {  # name: (module, help)
    "quickstart": ("arche_mdlm.studies.quickstart.command", "the comparison of a trained pair (arche-mdlm compare)"),
    "families": (
        "arche_mdlm.studies.families.command",
        "diffusion families compared with an AR twin (arche-mdlm compare --families)",
    ),
    "speed-quality": ("arche_mdlm.studies.speed_quality.command", "speed against quality, by sampler and steps"),
    "controlled": ("arche_mdlm.studies.controlled.command", "the controlled comparison of both arms, over seeds"),
    "error-rates": (
        "arche_mdlm.studies.error_rates.command",
        "token and sequence error by steps and length, on languages with a known distribution (arXiv 2502.09622)",
    ),
    "overfitting": (
        "arche_mdlm.studies.overfitting.command",
        "whether AR overfits a small corpus while MDLM still improves, over seeds (arXiv 2603.22075)",
    ),
    "data-limited": (
        "arche_mdlm.studies.data_limited.command",
        "MDLM compared with a tuned AR on few unique tokens (arXiv 2511.03276)",
    ),
    "low-variance": (
        "arche_mdlm.studies.low_variance.command",
        "the objective low_variance compared with nelbo, paired by seed",
    ),
    "sweep": (
        "arche_mdlm.studies.sweep.command",
        "learning rates, length of the decay and batch size of both arms, one at a time",
    ),
    "arche": ("arche_mdlm.studies.arche.command", "the protocol of arXiv 2603.22075 and its confounds"),
}
