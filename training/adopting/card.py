"""The model card of a converted folder: where its weights come from, and what was changed."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from arche_mdlm.training.adopting.source import CheckpointFiles
from arche_mdlm.training.models.model_card import FAMILY_WORDS, usage


def write_adopted_card(folder: Path, files: CheckpointFiles, name: str, kind: str) -> None:
    """`README.md` of a diffusion model of others; `kind`: whose, such as "LLaDA"."""
    text = f"""The {kind} model {_origin(files)} in the form of arche-mdlm. Its weights are unchanged: their names, the configuration and the code are
arche-mdlm's. Made by `arche-mdlm convert`; nothing was trained and nothing was measured.

What its authors say of the model, its data and its limits holds for this folder; so does its licence.
"""
    _write(folder, files, name, "masked", text)


def write_start_card(folder: Path, files: CheckpointFiles, name: str, diffusion: str) -> None:
    """`README.md` of a model that is yet to be trained."""
    words, _ = FAMILY_WORDS[diffusion]
    text = f"""The start of {words} language model, with the weights of {_origin(files)}. Made by `arche-mdlm convert`. **It is not trained for its new
task yet** and writes no sensible text: `arche-mdlm train --init_from FOLDER` trains it.

The licence of the weights is that of their source.
"""
    _write(folder, files, name, diffusion, text)


def _origin(files: CheckpointFiles) -> str:
    commit = f" (commit `{files.revision}`)" if files.revision else ""
    return f"`{_label(files)}`{commit}"


def _label(files: CheckpointFiles) -> str:
    """The repository, or the folder's own name: a path says nothing elsewhere."""
    return files.source if not Path(files.source).is_dir() else Path(files.source).resolve().name


def _write(folder: Path, files: CheckpointFiles, name: str, diffusion: str, text: str) -> None:
    _, tag = FAMILY_WORDS[diffusion]
    known = _card_of(files)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=[tag, "arche-mdlm"],
        base_model=None if Path(files.source).is_dir() else files.source,
        **{key: known[key] for key in ("license", "license_name", "license_link", "language") if known.get(key)},
    )
    card = f"---\n{data.to_yaml()}\n---\n# {name}\n\n{text}\n{usage(remote_code=True)}\n"
    ModelCard(card).save(folder / "README.md")


def _card_of(files: CheckpointFiles) -> dict[str, Any]:
    """Metadata of the source's own card; {} where it has none that can be read."""
    if "README.md" not in files.names:
        return {}
    try:
        return ModelCard.load(files.path("README.md")).data.to_dict()
    except (OSError, ValueError):
        return {}
