"""The import graph: no circle, no arrow up, no study that imports another, no room of more than 2,000 lines.

Imports inside functions count, too, and so do names of modules in strings, by which studies name the functions of their
jobs.
"""

import ast
import runpy
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From below to above; two rooms of one floor do not import each other.
FLOORS = (("modeling_mdlm",), ("checkpoints", "configuration"), ("metrics", "pipelines"), ("training",), ("writing", "evaluation"),
          ("studies", "serving"),
          ("commands",), ("cli",), ("tools", "benchmarks"))  # fmt: skip
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
NOT_INSTALLED = FLOORS[-1]
MOST_LINES = 2000
# transformers copies the code of a checkpoint out of one folder without sub-folders, so the model's cannot be divided.
TOO_LARGE = {"modeling_mdlm"}

Graph = dict[str, set[str]]  # file, by its path in the repository: the files of the modules that it imports


def modules(root: Path) -> dict[str, Path]:
    """Every module's file, by the name that it is imported by."""
    found = {}
    for room in FLOOR_OF:
        outer = [room] if room in NOT_INSTALLED else ["arche_mdlm"] + [room] * (room != "modeling_mdlm")
        outer = ["arche_mdlm_cli"] if room == "cli" else outer
        for path in sorted((root / room).glob("*.py" if room == "checkpoints" else "**/*.py")):
            inner = [*path.parent.relative_to(root / room).parts, *([] if path.stem == "__init__" else [path.stem])]
            found[".".join(outer + inner)] = path
    return found


def import_graph(root: Path) -> Graph:
    known = modules(root)

    def place(path: Path) -> str:
        return path.relative_to(root).as_posix()

    return {place(path): {place(known[other]) for other in imports(name, known)} for name, path in known.items()}


def imports(name: str, known: dict[str, Path]) -> set[str]:
    """The known modules that one of them imports; `from package import x` is an import of the module x where there is one."""
    package = name if known[name].stem == "__init__" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(known[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            whole = [f"{base}.{alias.name}" for alias in node.names]
            found |= {one if one in known else base for one in whole}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value.split(":")[0])
    return (found & set(known)) - {name}


def circle(graph: Graph) -> list[str]:
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return error.args[1]
    return []


def arrows_up(graph: Graph) -> list[str]:
    """Imports of a room that is not below the importer's; within studies: engine, then the studies, then their registry."""
    found = []
    for file, others in graph.items():
        for other in others:
            (room, above), (other_room, below) = _place(file), _place(other)
            if (below >= above) if room != other_room else (room == "studies" and below > above):
                found.append(f"{file} -> {other}")
    return found


def _place(file: str) -> tuple[str, float]:
    """Room and height of a file."""
    room, *inner = Path(file).parts[:-1]
    height = {(): 0.2, ("engine",): 0.0}.get(tuple(inner[:1]), 0.1) if room == "studies" else 0.0
    return room, FLOOR_OF[room] + height


def studies_that_import_another(graph: Graph) -> list[str]:
    def study(file: str) -> str | None:
        room, *inner = Path(file).parts[:-1]
        return inner[0] if room == "studies" and inner and inner[0] != "engine" else None

    return [f"{file} -> {other}" for file, others in graph.items() for other in others
            if study(file) and study(other) and study(file) != study(other)]  # fmt: skip


def lines_of_rooms(root: Path) -> Counter:
    """Lines of the modules right in a folder."""
    found = Counter()
    for path in modules(root).values():
        found[path.parent.relative_to(root).as_posix()] += len(path.read_text(encoding="utf-8").splitlines())
    return found


@pytest.fixture(scope="module")
def graph() -> Graph:
    return import_graph(ROOT)


def test_no_modules_import_each_other_in_a_circle(graph):
    assert circle(graph) == []


def test_no_arrow_runs_up(graph):
    assert arrows_up(graph) == []


def test_no_study_imports_another(graph):
    assert studies_that_import_another(graph) == []


def test_no_room_is_too_large():
    assert {room for room, lines in lines_of_rooms(ROOT).items() if lines > MOST_LINES} == TOO_LARGE


def test_every_folder_with_code_is_known():
    """A new room needs a floor, a folder within a room an `__init__.py`, by which setup.py installs it."""
    ours = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert ours == set(FLOOR_OF)
    assert {path.parent for path in modules(ROOT).values() if not (path.parent / "__init__.py").is_file()} == set()


def test_text_is_written_without_the_studies(graph):
    """By `arche-mdlm generate`."""
    reached, waiting = set(), ["commands/generate.py"]
    while waiting:
        file = waiting.pop()
        if file not in reached:
            reached.add(file)
            waiting += graph[file]
    assert "writing/stories.py" in reached
    assert [file for file in reached if file.startswith("studies/")] == []


def test_every_study_is_listed():
    """A folder and a line are a study."""
    listed = {
        name: module for name, (module, _) in runpy.run_path(str(ROOT / "studies" / "registry.py"))["STUDIES"].items()
    }
    folders = {path.parent.name for path in (ROOT / "studies").glob("*/__init__.py")} - {"engine"}
    assert sorted(listed.values()) == sorted(f"arche_mdlm.studies.{folder}.command" for folder in folders)
    assert {name.replace("-", "_") for name in listed} == folders


# Each rule finds what it is there for.
FAULTS = {
    "a circle": (circle, {"training/a.py": "from arche_mdlm.training import b", "training/b.py": "import arche_mdlm.training.a"}),
    "a circle through a function": (circle, {
        "training/a.py": "def f():\n    from .b import x", "training/b.py": "from arche_mdlm.training.a import y"}),
    "a circle of three": (circle, {
        "studies/one/a.py": "from .b import x", "studies/one/b.py": "from .c import x", "studies/one/c.py": "from .a import x"}),
    "up": (arrows_up, {"training/a.py": "from arche_mdlm.studies.engine.b import x", "studies/engine/b.py": ""}),
    "up from the model": (arrows_up, {"modeling_mdlm/a.py": "import arche_mdlm.metrics.b", "metrics/b.py": ""}),
    "sideways": (arrows_up, {"metrics/a.py": "from arche_mdlm.pipelines import b", "pipelines/b.py": ""}),
    "to the tools": (arrows_up, {"commands/a.py": "from tools import b", "tools/b.py": ""}),
    "from the engine": (arrows_up, {"studies/engine/a.py": "from arche_mdlm.studies.one.b import x", "studies/one/b.py": ""}),
    "to the list": (arrows_up, {"studies/one/a.py": "from arche_mdlm.studies import registry", "studies/registry.py": ""}),
    "another study": (studies_that_import_another, {
        "studies/one/a.py": "from arche_mdlm.studies.two.b import x", "studies/two/b.py": ""}),
    "a job of another study": (studies_that_import_another, {
        "studies/one/a.py": "JOB = 'arche_mdlm.studies.two.b:train'", "studies/two/b.py": ""}),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(fault, tmp_path):
    rule, files = FAULTS[fault]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert rule(import_graph(tmp_path)) != []


def test_lines_are_counted_a_folder_at_a_time(tmp_path):
    for name in ("studies/a.py", "studies/b.py", "studies/engine/c.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n" * 1500)
    assert lines_of_rooms(tmp_path) == {"studies": 3000, "studies/engine": 1500}
