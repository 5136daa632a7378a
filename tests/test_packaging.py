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
    "studies": "arche_mdlm/studies",
    "commands": "arche_mdlm/commands",
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
    assert {name.split("/")[0] for name in held} == {"arche_mdlm"}, "nothing else may be put on a user's path"
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
        (tmp_path / name).mkdir(exist_ok=True)
        if name != "modeling_mdlm":
            (tmp_path / name / "new.py").touch()
            assert (tmp_path / "build" / "typed" / package / "new.py").is_file(), package
    assert (tmp_path / "build" / "typed" / "arche_mdlm" / "new_mdlm.py").is_file()


def test_the_wheel_has_the_licence_and_the_command(wheel):
    (folder,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    assert f"{folder}/licenses/LICENSE" in wheel.namelist()
    assert "arche-mdlm = arche_mdlm.commands.main:main" in wheel.read(f"{folder}/entry_points.txt").decode()
    metadata = wheel.read(f"{folder}/METADATA").decode()
    assert f"\nVersion: {arche_mdlm.__version__}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata


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


def test_the_shipped_checkpoint_carries_the_code_as_it_stands():
    root = Path(__file__).parents[1]
    shipped = root / "checkpoints" / "mdlm-tinystories-mini"
    sources = sorted((root / "modeling_mdlm").glob("*_mdlm.py"))
    assert {path.name for path in shipped.glob("*.py")} == {path.name for path in sources}
    for source in sources:
        assert (shipped / source.name).read_text(encoding="utf-8") == source.read_text(encoding="utf-8"), source.name
