"""The contents of a wheel. It is built from a copy, so that a stale `build/` of the checkout cannot slip into it."""

import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import arche_mdlm
from arche_mdlm.checkpoints import SHIPPED

REPOSITORY = Path(__file__).parents[1]
SUFFIXES = {".py", ".yaml", ".json"}
# Each folder and what it imports as; written out here so that a folder dropped from setup.py is noticed.
PACKAGES = {
    "modeling_mdlm": "arche_mdlm",
    "configuration": "arche_mdlm/configuration",
    "pipelines": "arche_mdlm/pipelines",
    "training": "arche_mdlm/training",
    "metrics": "arche_mdlm/metrics",
    "writing": "arche_mdlm/writing",
    "evaluation": "arche_mdlm/evaluation",
    "studies": "arche_mdlm/studies",
    "commands": "arche_mdlm/commands",
    "checkpoints": "arche_mdlm/checkpoints",
    "cli": "arche_mdlm_cli",
}


def source_files(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.suffix in SUFFIXES and "__pycache__" not in path.parts)
    return sorted(path.relative_to(folder) for path in files)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("packaging")
    copy = folder / "copy"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in PACKAGES:
        shutil.copytree(REPOSITORY / name, copy / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", str(copy), "--no-deps", "--no-build-isolation", "--quiet"]
    command += ["--disable-pip-version-check", "--wheel-dir", str(folder)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_holds_every_module_and_preset(wheel):
    expected = {
        f"{package}/{path.as_posix()}" for name, package in PACKAGES.items() for path in source_files(REPOSITORY / name)
    }

    held = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert expected - held == set()
    assert {name.split("/")[0] for name in held} == {"arche_mdlm", "arche_mdlm_cli"}, (
        "nothing else may be put on a user's path"
    )
    assert {"arche_mdlm/training/__init__.py", "arche_mdlm/metrics/diversity/__init__.py"} <= held
    assert any(re.fullmatch(r"arche_mdlm/configuration/presets/.+\.yaml", name) for name in held)


def test_the_wheel_says_that_it_is_typed(wheel):
    assert "arche_mdlm/py.typed" in wheel.namelist()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_type_checkers_find_every_package(tmp_path):
    """`make lint` and `make venv` lay links to where type checkers and editors look; a new file of a package is seen at once."""
    (tmp_path / "modeling_mdlm").mkdir()
    for name in ("Makefile", "setup.py"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / "modeling_mdlm" / "new_mdlm.py").touch()
    subprocess.run(["make", "--silent", "build/typed"], cwd=tmp_path, check=True)
    for name, package in PACKAGES.items():
        if name == "cli":
            continue
        (tmp_path / name).mkdir(exist_ok=True)
        if name != "modeling_mdlm":
            (tmp_path / name / "new.py").touch()
            assert (tmp_path / "build" / "typed" / package / "new.py").is_file(), package
    assert (tmp_path / "build" / "typed" / "arche_mdlm" / "new_mdlm.py").is_file()


def test_the_wheel_has_the_licence_and_the_command(wheel):
    (folder,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    assert f"{folder}/licenses/LICENSE" in wheel.namelist()
    assert "arche-mdlm = arche_mdlm_cli:main" in wheel.read(f"{folder}/entry_points.txt").decode()
    metadata = wheel.read(f"{folder}/METADATA").decode()
    assert f"\nVersion: {arche_mdlm.__version__}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata


RUN_ELSEWHERE = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import arche_mdlm, arche_mdlm_cli
assert arche_mdlm.__file__.startswith(sys.path[0]), arche_mdlm.__file__
"""


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs Python code with the wheel's packages, in a folder of its own, far from the checkout."""
    site, here = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    wheel.extractall(site)

    def run(code: str, *argv: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", RUN_ELSEWHERE + code, str(site), *argv]
        return subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=280, check=False)

    return run


COMMANDS = {
    "generate": ["generate", "--prompt", "The cat [MASK] down.", "--max_new_tokens", "0", "--num_diffusion_steps", "2"],
    "generate with the twin": ["generate", "ar-tinystories-mini", "--prompt", "The cat", "--max_new_tokens", "3"],
    "score": ["score", "text.txt", "--num_samples", "2"],
    "compare": [
        "compare",
        "--num_samples",
        "2",
        "--num_diffusion_steps",
        "2",
        "--likelihood_samples",
        "2",
        "--dry_run",
    ],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_pair_works_from_any_folder(installed, name):
    prepare = "open('text.txt', 'w').write('The cat sat on the mat. It was happy.')\n"
    done = installed(prepare + "sys.exit(arche_mdlm_cli.main(sys.argv[1:]))", *COMMANDS[name])
    assert done.returncode == 0, done.stderr
    expected = {"score": "NELBO, an upper bound", "compare": "14 jobs"}.get(name, "The cat")
    assert expected in done.stdout


def test_the_pipeline_and_the_diversity_work_from_any_folder(installed):
    done = installed(
        "import evaluate, transformers, arche_mdlm.pipelines\n"
        "from arche_mdlm.metrics.diversity import SCRIPT\n"
        "fill = transformers.pipeline('text-infilling')\n"
        "print(fill('The [MASK] sat down.', num_diffusion_steps=2)[0]['generated_text'])\n"
        "print(evaluate.load(SCRIPT).compute(data=['a b c d e'] * 3 + ['a d e f g'] * 3)['distinct_2'])\n"
    )
    assert done.returncode == 0, done.stderr
    assert "sat down." in done.stdout


def test_the_installed_version_is_the_package_s():
    assert version("arche-mdlm") == arche_mdlm.__version__


def test_each_constraint_names_one_version():
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    pattern = re.compile(r'[a-z0-9-]+==[0-9][0-9A-Za-z.]*(; python_version (>=|<) "3\.11")?')

    assert [line for line in lines if not pattern.fullmatch(line)] == [], "no ranges, no local builds, no paths"
    pinned = {line.split("==")[0] for line in lines}
    setup = (REPOSITORY / "setup.py").read_text(encoding="utf-8")
    for name in ("torch", "transformers", "accelerate", "datasets", "huggingface_hub", "ruff", "pytest", "nltk"):
        assert re.search(rf'"{name}[>=]', setup), name
        assert name.replace("_", "-") in pinned


def test_the_shipped_checkpoints_carry_the_code_as_it_stands():
    root = Path(__file__).parents[1]
    sources = sorted((root / "modeling_mdlm").glob("*_mdlm.py"))
    shipped = [file.parent for file in (root / "checkpoints").glob("*/modeling_mdlm.py")]
    assert root / "checkpoints" / "mdlm-tinystories-mini" in shipped
    for folder in shipped:
        assert {path.name for path in folder.glob("*.py")} == {path.name for path in sources}
        for source in sources:
            assert (folder / source.name).read_text(encoding="utf-8") == source.read_text(encoding="utf-8"), source


def test_every_folder_of_checkpoints_is_listed():
    folders = {path.parent.name for path in (REPOSITORY / "checkpoints").glob("*/config.json")}
    assert folders == set(SHIPPED.values())
