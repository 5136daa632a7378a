"""The page about several GPUs has the tables that its command prints, and names launch files that are there."""

import re
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "several_gpus.md").read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_command(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.syspath_prepend(str(REPOSITORY))
    from benchmarks.parallel import __main__ as parallel

    assert parallel.main([]) == 0
    assert capsys.readouterr().out.strip() in PAGE
    assert parallel.main(["--gpus", "1", "64", "--memory", "0.001"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("does not fit: 161 GB") == 2, "the 7B models of both arms must be reported as too large"
    assert printed.strip() not in PAGE


def test_each_launch_file_is_named_and_says_how_many_processes_it_starts():
    for path in (REPOSITORY / "configuration" / "accelerate").glob("*_8_*.yaml"):
        assert f"`{path.name}`" in PAGE
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert settings["num_processes"] == 8 * settings["num_machines"]
        assert (settings["num_machines"] == 8) == path.name.endswith("nodes.yaml")
        assert (settings["distributed_type"] == "FSDP") == path.name.startswith("fsdp2")
        assert ("fsdp_config" in settings) == path.name.startswith("fsdp2")
    assert len(re.findall(r"`\w+_8_\w+\.yaml`", PAGE)) == 4
