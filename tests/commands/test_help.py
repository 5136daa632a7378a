"""The help of every command: at once, without torch, and without defaults that say nothing."""

import argparse
import subprocess
import sys

import pytest

from arche_mdlm import available_samplers
from arche_mdlm.commands import compare, study
from arche_mdlm.commands.generate_options import SAMPLERS, UNIFORM_SAMPLERS
from arche_mdlm.commands.main import COMMANDS, build_parser
from arche_mdlm.studies.registry import STUDIES
from arche_mdlm.training.arguments import build_parser as train_parser

NAMES = [command.__name__.rpartition(".")[2] for command in COMMANDS]
ASKED = [
    [],
    ["--help"],
    ["--version"],
    *([name, "--help"] for name in NAMES),
    ["compare", "--families", "--help"],
    *(["study", name, "--help"] for name in STUDIES),
]
CHECK = """
import sys
from arche_mdlm_cli import main
try:
    status = main({argv!r})
except SystemExit as end:
    status = end.code
heavy = {{"torch", "transformers", "datasets", "accelerate"}} & set(sys.modules)
sys.exit(f"loaded {{sorted(heavy)}}" if heavy else status or 0)
"""


@pytest.mark.parametrize("argv", ASKED, ids=" ".join)
def test_help_and_version_load_nothing_heavy(argv):
    done = subprocess.run([sys.executable, "-c", CHECK.format(argv=argv)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "default: None" not in done.stdout


def test_a_slip_of_the_finger_loads_nothing_heavy():
    code = CHECK.format(argv=["generate", "x", "--sampeler", "y"]).replace(
        "status or 0", "0 if status == 2 else status"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "unrecognized arguments: --sampeler" in done.stderr


def test_a_command_gets_the_whole_package(tmp_path):
    """Its `__init__` has run: the models are registered."""
    code = "from arche_mdlm_cli import main; import sys; status = main(['score', sys.argv[1], 'x']); import arche_mdlm; " \
           "assert arche_mdlm.MDLMConfig; sys.exit(status)"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "config.json is missing" in done.stderr


def parsers() -> dict[str, argparse.ArgumentParser]:
    whole = build_parser()
    found = {"arche-mdlm": whole}
    for action in whole._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= action.choices
    found |= {"train": train_parser(), "compare": compare.compare_parser()}
    return found | {f"study {name}": study.study_parser(name) for name in STUDIES}


@pytest.mark.parametrize("name", parsers())
def test_no_default_says_nothing(name):
    text = parsers()[name].format_help()
    assert "default: None" not in text
    assert "default: False" not in text


def test_the_help_names_every_sampler():
    assert set(available_samplers()) >= set(SAMPLERS)
    shipped = [name for name in available_samplers() if name in SAMPLERS]
    assert list(SAMPLERS) == shipped
    assert list(UNIFORM_SAMPLERS) == available_samplers("uniform")


@pytest.mark.parametrize(
    "name", ["generate", "chat", "serve", "compare", "score", "train", *(f"study {name}" for name in STUDIES)]
)
def test_what_computes_takes_a_number_of_threads(name):
    assert "--threads N" in parsers()[name].format_help()
