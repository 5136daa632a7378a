"""Data sets of the Hub, with the real client against a stand-in on loopback."""

import subprocess
import sys
import textwrap

from hub_server import hub_environment, hub_server

# --- the Hub ----------------------------------------------------------------------------------------------------------

HUB_SCRIPT = """
import json
import datasets, huggingface_hub
from huggingface_hub import HfApi
from arche_mdlm.training.data.preparing import prepare_data
from arche_mdlm.training.data.tokenizers_io import train_bpe

api, tokenizer = HfApi(), train_bpe(["x"], vocab_size=260)
api.create_repo("arche/stories", repo_type="dataset")

def push(stories):
    lines = "".join(json.dumps({"text": story, "id": 1}) + "\\n" for story in stories)
    api.upload_file(repo_id="arche/stories", repo_type="dataset", path_in_repo="train.jsonl", path_or_fileobj=lines.encode())

def prepare(cache="one", **settings):
    return prepare_data("arche/stories", tokenizer, context_length=64, cache_dir=cache, **settings)

def fail(kind, *words, source="arche/stories", **settings):
    try:
        prepare_data(source, tokenizer, context_length=64, cache_dir="failed", **settings)
    except kind as error:
        assert all(word in str(error) for word in words), error
    else:
        raise AssertionError(f"no {kind}")

push(["abc", "defg"])
first, streamed = prepare(), prepare("two", streaming=True, max_tokens=5)
assert first.summary.stories == 2 and first.dataset["num_bytes"][:] == [3, 4]
assert (streamed.summary.stories, streamed.summary.tokens) == (1, 5)
fail(ValueError, "text_column='story'", "text", text_column="story")
fail(ValueError, "split='test'", split="test")
fail(ValueError, "revision='v9'", revision="v9")
fail(FileNotFoundError, "arche/nothing", source="arche/nothing")

push(["abc", "defg", "hi"])
second = prepare()
assert second.summary.stories == 3 and second.summary.revision != first.summary.revision
assert prepare(revision=first.summary.revision).summary == first.summary

datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
assert prepare().summary == second.summary  # the commit that was found last
assert prepare("new", revision=second.summary.revision).summary == second.summary  # out of the cache of `datasets`
fail(FileNotFoundError, "arche/other", "Offline", "give a local file", source="arche/other")
fail(FileNotFoundError, "arche/stories", "another commit", revision="0" * 40)
print("done")
"""


def test_a_dataset_on_the_hub(tmp_path):
    with hub_server(tmp_path / "hub") as url:
        environment = hub_environment(url, home=tmp_path / "home")
        command = [sys.executable, "-c", textwrap.dedent(HUB_SCRIPT)]
        process = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "done"
