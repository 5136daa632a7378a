"""Presets: the settings of a run, read from YAML."""

from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from arche_mdlm.configuration.checks import check_preset
from arche_mdlm.configuration.settings import DataSettings, ModelSettings, Preset, TrainingSettings
from arche_mdlm.configuration.words import hint

PRESET_FOLDER = Path(__file__).parent / "presets"


class _Null:
    """`null` asked for by name (`--set data.max_tokens=null`); a plain None changes nothing."""

    def __repr__(self) -> str:
        return "null"


NULL = _Null()

_SECTIONS = {"model": ModelSettings, "data": DataSettings, "training": TrainingSettings}


def available_presets() -> list[str]:
    """Names that `load_preset` knows: `family-arm` for every family file."""
    return [f"{path.stem}-{arm}" for path in sorted(PRESET_FOLDER.glob("*.yaml")) for arm in _read(path)["arms"]]


def load_preset(name: str, overrides: dict[str, Any] | None = None) -> Preset:
    """Read a preset by name (`mini-mdlm`; a family's name alone means its `mdlm` arm) or from `FILE.yaml`.

    Args:
        overrides: `{"training.max_steps": 10, "model.config.hidden_size": 64}`.

    Raises:
        ValueError: for a name that does not exist (the nearest one is suggested), an unknown key or a bad value.
    """
    path, arm = _locate(name)
    family = _read(path)
    if arm not in family["arms"]:
        raise ValueError(f"preset={name!r}: {path.name} has no arm {arm!r}, only {', '.join(family['arms'])}")
    own = family["arms"][arm] or {}
    _no_other_keys(own, _SECTIONS, f"{path.name}: arms.{arm}.")
    for key in _SECTIONS:
        for where, part in ((f"{path.name}: {key}", family.get(key)), (f"{path.name}: arms.{arm}.{key}", own.get(key))):
            if not isinstance(part or {}, dict):
                raise ValueError(f"{where} must be a mapping of settings")
    merged = _merge({key: family.get(key) or {} for key in _SECTIONS}, own)
    return _assemble(f"{path.stem}-{arm}", family.get("description", ""), merged, overrides)


def preset_from_dict(saved: dict[str, Any], overrides: dict[str, Any] | None = None) -> Preset:
    """The preset that `to_dict` gave, with changes; ValueError as in `load_preset`."""
    sections = {key: dict(saved[key]) for key in _SECTIONS}
    return _assemble(saved["name"], saved["description"], sections, overrides)


def _assemble(name: str, description: str, sections: dict, overrides: dict[str, Any] | None) -> Preset:
    _one_length(sections, overrides or {})
    for key, value in (overrides or {}).items():
        if value is not None:
            _set(sections, key, None if value is NULL else value)
    preset = Preset(
        name=name,
        description=description,
        model=_build(ModelSettings, sections["model"], "model"),
        data=_build(DataSettings, sections["data"], "data"),
        training=_build(TrainingSettings, sections["training"], "training"),
    )
    check_preset(preset)
    return preset


def _one_length(sections: dict, overrides: dict[str, Any]) -> None:
    """Steps that are asked for replace the preset's epochs; ValueError for both of them in one place."""
    steps, epochs = (overrides.get(f"training.{name}") for name in ("max_steps", "epochs"))
    if steps is not None and epochs not in (None, NULL):
        raise ValueError(
            f"training.max_steps={steps} and training.epochs={epochs} both set the length of training: give one of them"
        )
    if steps is not None and sections["training"].get("epochs") is not None:
        sections["training"] = {**sections["training"], "epochs": None}


def _locate(name: str) -> tuple[Path, str]:
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ValueError(f"preset={name!r} is not a file")
        arms = list(_read(Path(name))["arms"])
        return Path(name), arms[0] if len(arms) == 1 else "mdlm"
    for path in PRESET_FOLDER.glob("*.yaml"):
        if name == path.stem:
            return path, "mdlm"
        if name.startswith(path.stem + "-") and name[len(path.stem) + 1 :] in _read(path)["arms"]:
            return path, name[len(path.stem) + 1 :]
    known = available_presets()
    raise ValueError(f"preset={name!r} is not one of {', '.join(known)}{hint(name, known)}")


def _read(path: Path) -> dict[str, Any]:
    try:
        family = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"preset={str(path)!r} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(family, dict) or not isinstance(family.get("arms"), dict) or not family["arms"]:
        raise ValueError(f"preset={str(path)!r} must be a mapping with the key 'arms', which names the arms")
    _no_other_keys(family, ("description", *_SECTIONS, "arms"), f"{path.name}: ")
    return family


def _no_other_keys(values: Any, known: Collection[str], where: str) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"{where.rstrip('.: ')} must be a mapping with the keys {', '.join(known)}")
    for key in values:
        if key not in known:
            raise ValueError(f"{where}{key} is not one of {', '.join(known)}{hint(str(key), known)}")


def _merge(base: dict, changes: dict) -> dict:
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = _merge(merged.get(key) or {}, value) if isinstance(value, dict) else value
    return merged


def _set(sections: dict, dotted: str, value: Any) -> None:
    section, _, rest = dotted.partition(".")
    if section not in _SECTIONS or not rest:
        known = [f"{name}.{f.name}" for name, cls in _SECTIONS.items() for f in fields(cls)]
        # The last part alone may be known: `max_steps` is training.max_steps.
        same = [name for name in known if name.rpartition(".")[2] == dotted.rpartition(".")[2]]
        near = f"; did you mean {same[0]!r}?" if same else hint(dotted, known)
        raise ValueError(f"{dotted} is not a setting: settings are model.*, data.* and training.*{near}")
    *parents, last = rest.split(".")
    tree = sections[section]
    for depth, parent in enumerate(parents):
        tree[parent] = dict(tree[parent]) if isinstance(tree.get(parent), dict) else tree.get(parent, {})
        if not isinstance(tree[parent], dict):
            raise ValueError(f"{dotted}: {'.'.join([section, *parents[: depth + 1]])} is a single value")
        tree = tree[parent]
    tree[last] = value


def _build(cls: Any, values: dict[str, Any], section: str) -> Any:
    known, hints = {f.name: f for f in fields(cls)}, get_type_hints(cls)
    if not isinstance(values, dict):
        raise ValueError(f"{section}={values!r} must be a mapping of settings")
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"{section}.{key} is not a setting: {', '.join(known)}{hint(key, known)}")
        if not _fits(value, hints[key]):
            kind = getattr(hints[key], "__name__", str(hints[key]))
            example = known[key].default
            such = f", such as {example!r}" if isinstance(example, (int, float, str, tuple)) else ""
            raise ValueError(f"{section}.{key}={value!r} must be a {kind}{such}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return cls(**values)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from YAML has the annotated type; whole numbers are floats too."""
    parts = get_args(hint)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if getattr(hint, "__origin__", None) is tuple:
        if parts[-1] is Ellipsis:
            return isinstance(value, (list, tuple)) and all(_fits(item, parts[0]) for item in value)
        return isinstance(value, (list, tuple)) and len(value) == len(parts) and all(map(_fits, value, parts))
    if getattr(hint, "__origin__", None) is dict:
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    if parts:
        return any(_fits(value, part) for part in parts)
    return isinstance(value, hint)
