"""What is published of a study: no prompt, which may be a held-out story's beginning, and yet the same figures."""

import gzip
import json

import pytest

from arche_mdlm.metrics.diversity import diversity
from arche_mdlm.studies.engine.records import figures_again, packed, published_figures, sha256_of

PROMPTS = ["Tim ran home to", "Sue sat on a"]
STORIES = [f"{prompt} red mat and was happy." for prompt in PROMPTS]
TEXTS = ["Tim ran home to eat a big cake.", "Sue sat on a big cat and ran."]


@pytest.fixture
def page(tmp_path):
    """The published records of a study of one job, which continues the beginnings of held-out stories."""
    folder = tmp_path / "study" / "jobs" / "sample-12"
    folder.mkdir(parents=True)
    (tmp_path / "study" / "study.json").write_text(json.dumps({"jobs": [{"name": "sample", "key": "12"}]}))
    (folder / "result.json").write_text(json.dumps({"result": {}}))
    lines = [{"prompt": prompt, "text": text} for prompt, text in zip(PROMPTS, TEXTS, strict=True)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "page.jsonl.gz").write_bytes(packed(tmp_path / "study"))
    return tmp_path / "page.jsonl.gz"


def test_a_prompt_is_there_by_its_hash_only(page):
    text = gzip.decompress(page.read_bytes()).decode()
    assert not any(prompt in text for prompt in PROMPTS)
    records = [json.loads(line) for line in text.splitlines()]
    assert [record["prompt_sha256"] for record in records] == [sha256_of(prompt) for prompt in PROMPTS]
    assert records[0]["text"] == " eat a big cake."


@pytest.mark.filterwarnings("ignore:data has")
def test_texts_are_measured_with_their_prompts_or_not_at_all(page):
    assert figures_again(page) == {}
    assert figures_again(page, held_out=STORIES[:1]) == {}
    assert figures_again(page, held_out=STORIES) == {"sample": diversity(TEXTS, seed=0)}


def test_the_likelihood_is_that_of_the_stories_and_not_the_card_s():
    card, measured = {"nats_per_token": 2.0}, {"nats_per_token": 3.0, "nats": [3.0]}
    report = {"arms": {"AR": {"likelihood": {"from the card": card, "held_out.jsonl": measured}}}}
    assert published_figures(report) == {"AR-likelihood": measured}
