"""Small runs for the tests of `training/train.py`."""

import json
from pathlib import Path

import pytest
from small_runs import SETTINGS, sentences

from arche_mdlm.training import train


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a corpus and a cache of its own."""
    folder = tmp_path_factory.mktemp("training")
    texts = sentences(("Tim", "Sue", "Ann", "Bob", "A dog"), ("ran", "sat", "saw", "hid"))
    (folder / "stories.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHE_MDLM_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture
def arguments(workplace, tmp_path):
    """The command line of an arm's run; keyword arguments change SETTINGS ("__" for a dot)."""

    def make(arm: str, *more: str, output_dir=tmp_path / "run", **changes) -> list[str]:
        settings = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
        line = [
            "--preset",
            f"quickstart-{arm}",
            "--data",
            str(workplace / "stories.jsonl"),
            "--output_dir",
            str(output_dir),
        ]
        for key, value in settings.items():
            line += ["--set", f"{key}={json.dumps(value)}"]
        return [*line, *more]

    return make


@pytest.fixture(scope="module")
def whole(workplace):
    """Folder of a run of an arm that nothing interrupted, by arm."""
    folders = {}

    def run(arm: str) -> Path:
        if arm not in folders:
            folders[arm] = workplace / f"whole-{arm}"
            line = ["--preset", f"quickstart-{arm}", "--data", str(workplace / "stories.jsonl")]
            for key, value in SETTINGS.items():
                line += ["--set", f"{key}={json.dumps(value)}"]
            assert train.main([*line, "--output_dir", str(folders[arm])]) == 0
        return folders[arm]

    return run
