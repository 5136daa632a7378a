"""The Example blocks of the docstrings run unchanged, with the shown output."""

import ast
import doctest
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports, get_relative_imports

from arche_mdlm import samplers_mdlm

ROOT = Path(__file__).parents[1]
CODE = sorted((ROOT / "modeling_mdlm").glob("*_mdlm.py"))
# Where a reader starts: each has an example.
ENTRIES = {
    "configuration_mdlm": ["MDLMConfig"],
    "modeling_mdlm": ["MDLMModel.forward", "MDLMForMaskedDiffusion.forward"],
    "generation_mdlm": ["MDLMGenerationConfig", "MDLMGenerationMixin.generate"],
    "samplers_mdlm": ["register_sampler"],
    "metrics.likelihood": ["nelbo", "nll"],
    "metrics.policy_likelihood": ["policy_nll"],
    "metrics.diversity.diversity": ["diversity"],
}

EXPLAINED = {**ENTRIES, "samplers_mdlm": ["register_sampler", "Sampler.step"]}


def pairs(entries: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(module, name) for module, names in entries.items() for name in names]


def documented(module: str, name: str):
    found = importlib.import_module(f"arche_mdlm.{module}")
    for part in name.split("."):
        found = inspect.unwrap(vars(found)[part] if inspect.isclass(found) else getattr(found, part))
    return found


@pytest.mark.parametrize(("module", "name"), pairs(ENTRIES))
def test_an_example_runs(module, name, monkeypatch):
    monkeypatch.chdir(ROOT)  # where the shipped pair is
    monkeypatch.setattr(samplers_mdlm, "_SAMPLERS", {k: dict(v) for k, v in samplers_mdlm._SAMPLERS.items()})
    text = documented(module, name).__doc__.replace("```", "")
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert test.examples, f"{name} lacks an example"
    report = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    assert not report, "".join(report)


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.stem)
def test_no_docstring_looks_like_an_import(path):
    """transformers finds the files of a checkpoint's code by a regular expression, which also reads docstrings."""
    imports = [
        node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)
    ]
    assert set(get_relative_imports(path)) == {node.module for node in imports if node.level == 1}
    assert set(get_imports(path)) <= {"torch", "transformers", *sys.stdlib_module_names}


@pytest.mark.parametrize(("module", "name"), pairs(EXPLAINED))
def test_every_argument_is_explained(module, name):
    entry = documented(module, name)
    wanted = vars(entry)["__annotations__"] if inspect.isclass(entry) else inspect.signature(entry).parameters
    assert set(wanted) - set(re.findall(r"\b(\w+) \(", entry.__doc__)) - {"self", "kwargs"} == set()
