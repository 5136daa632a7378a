"""Hashes of the code and the data that a result depends on besides its settings."""

import ast
import hashlib
import json
import sys
from functools import lru_cache
from importlib.machinery import ModuleSpec
from importlib.util import resolve_name
from pathlib import Path

from arche_mdlm.configuration.settings import Preset
from arche_mdlm.training.data.sources import open_source

_PACKAGE = "arche_mdlm"


def code_hash(module: str) -> str:
    """sha256 of the code that a module can reach: its own, that of all it imports from its package and from ours.

    Imports anywhere in a file count, also those within functions. Of ours, the model's files always count: they are also
    imported by name. Comments, docstrings and layout do not count. ValueError for a module that cannot be found or read.
    """
    roots = {module.split(".")[0], _PACKAGE}
    waiting, sources = [module, *_model_modules()], {}
    while waiting:
        name = waiting.pop()
        if name in sources or name.split(".")[0] not in roots:
            continue
        path = _path(name)
        if path is None:
            if name == module:
                raise ValueError(f"module {module!r} of a job cannot be found")
            continue
        sources[name], imported = _read(path, path.stat().st_mtime_ns, name, path.name == "__init__.py")
        waiting += imported
    return hashlib.sha256("\0".join(f"{name}\n{sources[name]}" for name in sorted(sources)).encode()).hexdigest()


def _model_modules() -> list[str]:
    package = _path(_PACKAGE)
    assert package is not None, _PACKAGE
    folder = package.parent
    return [_PACKAGE, *(f"{_PACKAGE}.{path.stem}" for path in folder.glob("*.py") if path.stem != "__init__")]


def _path(name: str) -> Path | None:
    """File of a module; None if the name is not a module (but a function, say) or lacks a source file."""
    found = _spec(name)
    path = Path(found.origin) if found is not None and found.origin is not None else None
    return path if path is not None and path.suffix == ".py" and path.is_file() else None


def _spec(name: str) -> ModuleSpec | None:
    """As `importlib.util.find_spec`, which imports the packages that a module is in."""
    parent, locations = name.rpartition(".")[0], None
    if parent:
        above = _spec(parent)
        if above is None or above.submodule_search_locations is None:
            return None
        locations = list(above.submodule_search_locations)
    finders = (finder for finder in sys.meta_path if hasattr(finder, "find_spec"))
    return next((found for finder in finders if (found := finder.find_spec(name, locations)) is not None), None)


@lru_cache(maxsize=1024)
def _read(path: Path, changed: int, name: str, is_package: bool) -> tuple[str, tuple[str, ...]]:
    """(code without comments, docstrings and layout; names that may be imported modules) of a file as of `changed`."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ValueError(f"{path} of a job is not valid Python: {error}") from error
    package = name if is_package else name.rpartition(".")[0]
    imported: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            imported += [base, *(f"{base}.{alias.name}" for alias in node.names)]
        _drop_docstring(node)
    # A module's packages are run before it.
    parents = [name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)]
    return ast.unparse(tree), tuple(dict.fromkeys([*imported, *parents]))


def _drop_docstring(node: ast.AST) -> None:
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body:
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body = node.body[1:] or [ast.Pass()]


def data_hash(preset: Preset, validation_data: str | None) -> str:
    """sha256 of the source of the stories: the content of local files, or the name on the Hub. FileNotFoundError for no file."""
    parts: list = []
    for source in (preset.data.source, validation_data):
        splits = ("train", "validation") if source is not None and Path(source).is_dir() else ("train",)
        if source is None or not (Path(source).exists() or Path(source).suffix):
            parts.append(source)
        else:
            found = (open_source(source, split=split, text_column=preset.data.text_column) for split in splits)
            parts += [one.fingerprint() for one in found]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
