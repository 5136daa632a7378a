"""Loading, generating and infilling need only `install_requires`; everything else is in an extra, which is named where it is missing.

An environment with the base requirements alone is made of links to the installed packages.
"""

import ast
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from arche_mdlm.configuration.extras import EXTRAS, extra_of, install_command, require

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "checkpoints" / "mdlm-tinystories-mini"
ROOMS = (
    "modeling_mdlm",
    "checkpoints",
    "configuration",
    "metrics",
    "pipelines",
    "training",
    "writing",
    "evaluation",
    "studies",
    "serving",
    "commands",
)


def declared() -> dict[str, list[str]]:
    """The lists of requirements in setup.py."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List) and node.targets[0].id != "DEV"
    }


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def with_what_they_need(requirements: list[str]) -> set[str]:
    """Normalised names of installed distributions."""
    found: set[str] = set()
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        name = normal(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:  # for other systems
            continue
        found.add(name)
        waiting += [Requirement(line) for line in needs]
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A folder for PYTHONPATH: our packages, the base requirements, and what they need."""
    folder = tmp_path_factory.mktemp("base")
    for name in with_what_they_need(declared()["BASE"]):
        for file in distribution(name).files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__", "bin") and not (folder / top).exists():
                (folder / top).symlink_to(distribution(name).locate_file(top))
    package = folder / "arche_mdlm"
    package.mkdir()
    for room in ROOMS[1:]:
        (package / room).symlink_to(ROOT / room)
    (folder / "arche_mdlm_cli").symlink_to(ROOT / "cli")
    for file in (ROOT / "modeling_mdlm").glob("*.py"):
        (package / file.name).symlink_to(file)
    return folder


def python(base: Path, *command: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(base), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, "-S", *command], env=environment, capture_output=True, text=True)


def test_the_environment_lacks_the_extras(base):
    """Or the tests below would show nothing."""
    code = "import importlib.util\nprint(*[n for n in ('accelerate', 'datasets', 'evaluate', 'scipy', 'matplotlib', 'rich', 'torch')"
    found = python(base, "-c", code + " if importlib.util.find_spec(n)])").stdout.split()
    assert set(found) <= {"rich", "torch"}  # typer, which transformers needs, brings rich
    assert "torch" in found


@pytest.mark.parametrize("ours", [True, False], ids=["package", "remote code"])
def test_a_checkpoint_loads_generates_and_fills_with_the_base_alone(base, ours):
    code = (
        ("import arche_mdlm, arche_mdlm.pipelines\n" if ours else "") + "import sys, torch\n"
        "from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, pipeline\n"
        f"folder, code = {str(CHECKPOINT)!r}, {{'trust_remote_code': {not ours}}}\n"
        "for auto in (AutoModel, AutoModelForMaskedLM, AutoModelForCausalLM):\n"
        "    model = auto.from_pretrained(folder, **code)\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder, **code)\n"
        "out = model.generate(**tokenizer('The', return_tensors='pt'), max_length=16, num_diffusion_steps=2)\n"
        "print(out.shape[1])\n"
        + (
            "print(pipeline('text-infilling', model=model, tokenizer=tokenizer)('The [MASK:2] dog.', num_diffusion_steps=2))\n"
            if ours
            else ""
        )
    )
    done = python(base, "-c", code)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("16\n")
    assert len(done.stdout.splitlines()) == 1 + ours


COMMANDS = [
    (["generate", str(CHECKPOINT), "--num_samples", "2", "--max_length", "12", "--num_diffusion_steps", "2"], None),
    (["--help"], None),
    (["train", "--max_steps", "1"], "train"),
    (["score", str(CHECKPOINT), "texts.txt"], "train"),
    (["compare"], "train"),
    (["eval", "--tasks", "x"], "eval"),
    (["study", "controlled", "--data", "x.jsonl", "--preset", "mini", "--output", "x"], "train"),
]


@pytest.mark.parametrize(("line", "extra"), COMMANDS, ids=[" ".join(line[:2]) for line, _ in COMMANDS])
def test_a_command_runs_or_says_what_to_install(base, line, extra, tmp_path):
    code = "import os, sys\nfrom arche_mdlm.commands.main import main\nos.chdir(sys.argv.pop())\nsys.exit(main(sys.argv[1:]))"
    done = python(base, "-c", code, *line, str(tmp_path))
    if extra is None:
        assert done.returncode == 0, done.stderr[-2000:]
        return
    assert done.returncode == 2, done.stderr[-2000:]
    (message,) = (one for one in done.stderr.splitlines() if one.startswith("error: "))
    assert install_command(extra) in message
    assert list(tmp_path.iterdir()) == []


def third_party_imports(folder: Path) -> dict[str, set[str]]:
    """Top-level names of the modules that a folder's files import, anywhere in them."""
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                if top not in sys.stdlib_module_names and top != "arche_mdlm":
                    found.setdefault(top, set()).add(path.relative_to(ROOT).as_posix())
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_every_import_is_declared(room):
    """In setup.py, and where it is not in the base also in configuration/extras.py."""
    lists, providers = declared(), packages_distributions()
    base = {normal(Requirement(line).name) for line in lists["BASE"]}
    for name, files in third_party_imports(ROOT / room).items():
        distributions = {normal(one) for one in providers.get(name, [name])}
        if not distributions & base:
            extra = extra_of(name)
            assert extra is not None, f"{name} of {files} is in no extra"
            assert distributions & {normal(Requirement(line).name) for line in lists[extra.upper()]}, (name, files)


def test_extras_are_those_of_setup_py():
    lists, providers = declared(), packages_distributions()
    assert set(lists) - {"BASE", "TOOLS"} == {extra.upper() for extra in EXTRAS}
    for extra, packages in EXTRAS.items():
        wanted = {normal(Requirement(line).name) for line in lists[extra.upper()]}
        for name in packages:
            guess = {normal(one) for one in providers.get(name, [])} | {normal(name), f"{normal(name)}-text"}
            assert guess & wanted, (extra, name)
        assert len(packages) == len(wanted), extra


def test_all_missing_packages_are_named_at_once(monkeypatch):
    monkeypatch.setattr("arche_mdlm.configuration.extras.EXTRAS", {"one": ("no_such_a",), "two": ("no_such_b",)})
    with pytest.raises(ImportError, match=r"drawing needs no_such_a, no_such_b: pip install \"arche-mdlm\[one,two\]\""):
        require("drawing", "no_such_a", "json", "no_such_b")
