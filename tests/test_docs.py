"""The examples of the documentation run."""

import re
from pathlib import Path

import pytest

from arche_mdlm.family_parts_mdlm import FAMILY_PARTS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["stock_tools.md"])
def test_examples_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(code, page, "exec"), {})


def pages() -> list[Path]:
    return sorted(
        path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "metrics").rglob("*.md")]
    )


@pytest.mark.parametrize("page", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_pictures_of_a_page_are_there(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    missing = [target for target in targets if not (page.parent / target.split("#")[0]).exists()]
    assert not missing


def test_every_family_is_explained():
    text = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    assert [f"(`{family}`)" for family in FAMILY_PARTS if f"(`{family}`)\n" not in text] == []


def test_anchors_of_the_page_of_families_are_there():
    text = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    used = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert used
    assert used <= anchors


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
