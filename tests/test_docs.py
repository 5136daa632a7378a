"""The examples of the documentation run."""

import json
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


def test_the_readme_has_the_figures_of_the_published_quickstart():
    """Of both arms and of real stories, so that a report made again does not leave an old table behind."""
    report = json.loads((ROOT / "docs/results/quickstart/report.json").read_text(encoding="utf-8"))
    arms = [report["arms"][arm] for arm in ("MDLM", "AR")]
    sets = [*(arm["diversity"] for arm in arms), report["reference"]["figures"]]
    losses = [arm["likelihood"]["validation split, from the model card"] for arm in arms]
    rows = {
        "Distinct-2": [f"{own['distinct_2']:.3f}" for own in sets],
        "Self-BLEU": [f"{own['self_bleu']:.3f}" for own in sets],
        "distinct first words": [f"{own['distinct_first_words']:.1%}".replace("%", " %") for own in sets],
        "distinct five-word openings": [f"{own['distinct_openings']:.1%}".replace("%", " %") for own in sets],
        "words per story": [f"{own['mean_words']:.1f}" for own in sets],
        "NLL, bits per byte": [f"{own['bits_per_byte']:.3f}" for own in losses],
        "NLL, nats per token": [f"{own['nats_per_token']:.3f}" for own in losses],
    }
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, figures in rows.items():
        (cells,) = re.findall(rf"^\| {re.escape(name)} \|(.*)\|$", text, re.MULTILINE)
        found = [re.sub(r"^at most | ± .*| \(NELBO\)", "", cell.strip()) for cell in cells.split("|")]
        assert [cell for cell in found if cell] == figures, name
