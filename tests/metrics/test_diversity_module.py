"""The `evaluate` module of diversity: bad input, parts, combination, and loading offline."""

import os
import subprocess
import sys
from pathlib import Path

import evaluate
import pytest
from diverse_texts import CHINESE, SIX, stories

from arche_mdlm.metrics.diversity import (
    diversity,
)

REPOSITORY = Path(__file__).parents[2]


FOLDER = REPOSITORY / "metrics" / "diversity"


pytestmark = pytest.mark.filterwarnings("ignore:data has .* texts:UserWarning")


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    return evaluate.load(str(FOLDER), cache_dir=str(tmp_path_factory.mktemp("evaluate")))


BAD_INPUT = [
    ({"data": []}, r"data=\[\] has 0 texts; at least 2"),
    ({"data": ["one"]}, "has 1 texts; at least 2"),
    ({"data": ["", "  "]}, "data has 2 texts and all are empty"),
    ({"data": ["a", 3]}, r"data\[1\]=3 is of type int"),
    ({"data": ["a", None]}, r"data\[1\]=None"),
    ({"data": "a story"}, "data='a story' must be a list"),
    ({"data": None}, "data=None"),
    ({"data": ["a", "b"], "references": ["a"]}, "references.*has 1 texts"),
    ({"data": ["a", "b", "c"], "references": ["a", "b"]}, "references has 2 texts and data 3"),
    ({"data": ["a", "b"], "references": ["a", 1.5]}, r"references\[1\]=1.5"),
    ({"data": ["a", "b"], "protocol": "paper"}, "protocol='paper' is not one of exact, arche"),
    ({"data": ["a", "b"], "seed": -1}, "seed=-1 must be an integer"),
    ({"data": ["a", "b"], "seed": "x"}, "seed='x' must be an integer"),
    ({"data": ["a", "b"], "tokenizer": "letters"}, "tokenizer='letters' must be one of words, characters"),
    ({"data": ["a", "b"], "tokenizer": None}, "tokenizer=None must be one of"),
    ({"data": ["a", "b"], "tokenizer": str.lower}, "tokenizer gives str for a text, not a list"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT)
def test_bad_input(module, arguments, message):
    with pytest.raises(ValueError, match=message):
        diversity(**arguments)
    with pytest.raises(ValueError, match=message):
        module.compute(**arguments)


def test_the_module_gives_what_the_function_gives(module):
    texts, references = SIX * 3, stories(40)

    assert module.compute(data=texts, references=references, seed=5) == diversity(texts, references, seed=5)
    assert module.compute(data=texts, protocol="arche") == diversity(texts, protocol="arche")
    assert module.module_type == "measurement"


def test_the_module_takes_texts_in_parts(module):
    texts = stories(20)
    for text in texts[:10]:
        module.add(data=text)
    module.add_batch(data=texts[10:])

    assert module.compute() == diversity(texts)


@pytest.mark.parametrize("name", ["data", "predictions"])
def test_the_module_can_be_combined(module, name):
    texts, references = SIX * 3, stories(40)
    both = evaluate.combine({"ours": module, "again": evaluate.load(str(FOLDER))})
    found = both.compute(**{name: texts}, references=references, seed=5)
    expected = diversity(texts, references, seed=5)
    assert found == {f"{label}_{key}": value for label in ("ours", "again") for key, value in expected.items()}
    both.add_batch(data=CHINESE)
    assert (
        both.compute(tokenizer="characters")["ours_vocabulary_size"]
        == diversity(CHINESE, tokenizer="characters")["vocabulary_size"]
    )
    with pytest.raises(TypeError, match="protocl"):
        module.compute(data=texts, protocl="arche")


def run_offline(code, cwd, cache):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cache), "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_module_loads_by_path_offline_from_a_checkout(tmp_path):
    code = (
        "import evaluate\n"
        "result = evaluate.load('metrics/diversity').compute(data=['a b c'] * 60 + ['a d'] * 60)\n"
        "print(result['distinct_first_words'] == 1 / 120)\n"
    )
    assert run_offline(code, REPOSITORY, tmp_path).strip() == "True"


def test_the_space_starts_from_any_folder(tmp_path):
    space = tmp_path / "app"
    space.mkdir()
    for name in ("app.py", "diversity.py", "corpus.py", "intervals.py", "words.py", "README.md"):
        (space / name).write_bytes((FOLDER / name).read_bytes())
    code = (
        "import evaluate.utils\n"
        "evaluate.utils.launch_gradio_widget = lambda module: print(module.name, list(module.features))\n"
        "import runpy; runpy.run_path('app.py')\n"
    )
    assert run_offline(code, space, tmp_path / "cache").strip() == "diversity ['data']"


def test_the_card_is_that_of_a_space():
    import yaml

    _, front, _ = (FOLDER / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    card = yaml.safe_load(front)
    assert (card["sdk"], card["app_file"], card["tags"]) == ("gradio", "app.py", ["evaluate", "measurement"])
