"""The command `arche-mdlm eval`: tasks from end to end, its defaults, errors, and two processes."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.tasks import TaskManager  # noqa: E402
from lm_eval_requests import requests  # noqa: E402

from arche_mdlm.commands.main import main  # noqa: E402
from arche_mdlm.evaluation.command import with_defaults  # noqa: E402
from arche_mdlm.evaluation.lm_eval_model import ArcheMDLM  # noqa: E402

TASKS = {
    "choice": "output_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: choices\ndoc_to_target: label\n"
    "metric_list: [{metric: acc}, {metric: acc_norm}]\n",
    "last_word": "output_type: loglikelihood\ndoc_to_text: '{{question}}'\ndoc_to_target: ' {{choices[0]}}'\n"
    "metric_list: [{metric: perplexity}, {metric: acc}]\n",
    "rolling": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{question}}'\n"
    "metric_list: [{metric: bits_per_byte}]\n",
    "answer": "output_type: generate_until\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{choices[0]}}'\n"
    "generation_kwargs: {until: ['.'], max_gen_toks: 6}\nmetric_list: [{metric: exact_match}]\n",
}
QUESTIONS = [
    {"question": "The cat sat on", "choices": ["a mat", "the sun"], "label": 0},
    {"question": "Tim and Sue play in", "choices": ["the sun", "a bird", "Tim"], "label": 1},
    {"question": "The dog saw the", "choices": ["tree", "cat"], "label": 0},
]


@pytest.fixture
def only_ours(monkeypatch):
    """Not the thousands of tasks of lm-eval, whose files take seconds to read."""
    monkeypatch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))


@pytest.fixture
def tasks(tmp_path) -> Path:
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    files = (
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path / 'docs.jsonl'}}}}}\ntest_split: test\n"
    )
    (tmp_path / "tasks").mkdir()
    for name, text in TASKS.items():
        (tmp_path / "tasks" / f"{name}.yaml").write_text(f"task: own_{name}\n{files}{text}")
    return tmp_path / "tasks"


def results_of(folder: Path) -> dict:
    (file,) = folder.rglob("results_*.json")
    return json.loads(file.read_text())


@pytest.mark.usefixtures("only_ours")
@pytest.mark.parametrize("kind", ["masked", "uniform_block", "eso", "ar"])
def test_tasks_run_by_the_command(folders, tasks, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    line = ["eval", "--model_args", f"pretrained={folders[kind]},num_samples=4", "--include_path", str(tasks), "--tasks",
            ",".join(f"own_{name}" for name in TASKS), "--output_path", str(tmp_path / "out"), "--device", "cpu"]  # fmt: skip
    line += [] if kind == "ar" else ["--batch_size", "16"]
    assert main(line) == 0
    found = results_of(tmp_path / "out")
    assert set(found["results"]) == {f"own_{name}" for name in TASKS}
    model = ArcheMDLM(str(folders[kind]), num_samples=4)
    best = []
    for question in QUESTIONS:
        pairs = [(question["question"], f" {choice}") for choice in question["choices"]]
        values = [value for value, _ in model.loglikelihood(requests("loglikelihood", pairs), disable_tqdm=True)]
        best.append(values.index(max(values)) == question["label"])
    assert found["results"]["own_choice"]["acc,none"] == pytest.approx(sum(best) / 3)
    assert found["config"]["model"] == "arche_mdlm"
    assert ("log_likelihood_standard_error_nats" in found["config"]) == (kind != "ar")


@pytest.mark.usefixtures("only_ours")
def test_what_is_wrong_with_model_args_is_one_line(folders, tasks, capsys):
    line = [
        "eval",
        "--model_args",
        f"pretrained={folders['masked']},steps=4",
        "--include_path",
        str(tasks),
        "--tasks",
        "own_choice",
    ]
    assert main(line) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: model_args has steps=4, which is not an option of arche_mdlm")


def test_defaults_of_the_command():
    ours = ["--model", "arche_mdlm", "--batch_size", "auto"]
    assert with_defaults(["--tasks", "x"]) == ["run", *ours, "--tasks", "x"]
    assert with_defaults(["run", "-b", "4", "--tasks", "x"]) == ["run", *ours[:2], "-b", "4", "--tasks", "x"]
    assert with_defaults(["--model=hf", "--batch_size=2"]) == ["run", "--model=hf", "--batch_size=2"]
    assert with_defaults(["ls", "tasks"]) == ["ls", "tasks"]
    assert with_defaults(["--config", "x.yaml"]) == ["run", "--config", "x.yaml"]


DRIVER = """
import sys
from functools import partial
from unittest import mock
import lm_eval.tasks
from arche_mdlm.evaluation.command import main
with mock.patch("lm_eval.tasks.TaskManager", partial(lm_eval.tasks.TaskManager, include_defaults=False)):
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.usefixtures("only_ours")
@pytest.mark.long
def test_two_processes_give_what_one_gives(folders, tasks, tmp_path):
    """Three documents, so that one process has fewer than the other."""
    line = ["--model_args", f"pretrained={folders['masked']},num_samples=4", "--include_path", str(tasks), "--tasks",
            "own_choice,own_rolling,own_last_word", "--batch_size", "8", "--device", "cpu", "--output_path"]  # fmt: skip
    assert main(["eval", *line, str(tmp_path / "one")]) == 0
    (tmp_path / "driver.py").write_text(DRIVER)
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
              "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip
    command = [sys.executable, *launch, str(tmp_path / "driver.py"), *line, str(tmp_path / "two")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (results_of(tmp_path / name)["results"] for name in ("one", "two"))
    assert set(one) == set(two) == {"own_choice", "own_rolling", "own_last_word"}
    for task, values in one.items():
        for name, value in values.items():
            if isinstance(value, float) and "stderr" not in name:
                assert two[task][name] == pytest.approx(value, rel=1e-6), (task, name)
