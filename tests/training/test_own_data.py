"""Runs on prompts with answers, for epochs, with trackers and pushed checkpoints: from the command to what is left."""

import json
import re
from pathlib import Path

import huggingface_hub
import pytest
import torch
from accelerate import tracking
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from arche_mdlm.training import run as run_module
from arche_mdlm.training import train
from arche_mdlm.training.batches.batching import BatchPlanner
from arche_mdlm.training.batches.step_batches import StepBatches
from arche_mdlm.training.data.corpus import load_corpus
from arche_mdlm.training.plan import make_plan
from arche_mdlm.training.request import TrainingRequest

FAMILIES = {
    "masked": {},
    "block": {"diffusion": "block", "attention_block_length": 4},
    "uniform": {"diffusion": "uniform", "time_conditioning": "log_snr"},
    "uniform_block": {"diffusion": "uniform_block", "attention_block_length": 4, "time_conditioning": "log_snr"},
    "eso": {"diffusion": "eso", "alpha_0": 0.5},
    "ar": None,
}
SIZES = {"vocab_size": 280, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "max_position_embeddings": 32}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHE_MDLM_CACHE", str(tmp_path_factory.mktemp("own") / "cache"))
        yield


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "a.jsonl"
    rows = [{"prompt": f"{a} and {b}?", "completion": " yes" * (a % 3 + 1)} for a in range(9) for b in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def request(source: Path, output: Path, family: str = "masked", changes: dict | None = None, **more) -> TrainingRequest:
    config = {f"model.config.{name}": value for name, value in (SIZES | (FAMILIES[family] or {})).items()}
    settings = {"data.source": str(source), "data.vocab_size": 280, "data.context_length": 32, "data.validation_fraction": 0.2,
                "training.batch_size": 8, "training.warmup_steps": 1, "training.eval_rows": 8}  # fmt: skip
    arm = "ar" if family == "ar" else "mdlm"
    length = {} if "training.epochs" in (changes or {}) else {"training.max_steps": 2}
    return TrainingRequest(f"quickstart-{arm}", config | settings | length | (changes or {}), output_dir=output, **more)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_on_answers(prompts, tmp_path, family):
    result = run_module.run(request(prompts, tmp_path / "run", family))
    log = json.loads((result.output_dir / "training_log.json").read_text())
    assert result.complete
    scores = [entry["validation_nats"] for entry in log if "validation_nats" in entry]
    assert len(scores) == 1
    assert 3 < scores[0] < 60, "near ln(280) a token, the tail counted in the diffusion families"


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_stay_as_they_are_and_have_no_loss(prompts, tmp_path, family):
    plan = make_plan(request(prompts, tmp_path / "run", family))
    corpus = load_corpus(plan.preset.data)
    config = run_module._model(plan, corpus).config
    planner = BatchPlanner(corpus.train_lengths, 8, 32, 0)
    steps = StepBatches(corpus.train.dataset, planner, plan.preset.training, config, corpus.tokenizer.pad_token_id)
    learnt_pads, pad = 0, corpus.tokenizer.pad_token_id
    for step in range(2):
        batch, rows = steps[step], [corpus.train.dataset[row] for row in planner.plan(step).rows]
        inputs = batch["inputs"][0]
        for row, ids, labels in zip(rows, inputs["input_ids"], inputs["labels"], strict=True):
            given = row["num_given"]
            assert ids[:given].tolist() == row["input_ids"][:given]
            assert bool((labels[:given] == -100).all())
            learnt_pads += int((labels == pad).sum())
        answers = sum(len(row["input_ids"]) - row["num_given"] for row in rows)
        assert batch["denominator"] == answers
        if family == "ar":
            assert int((inputs["labels"] != -100).sum()) == answers
    assert (learnt_pads > 0) == (family != "ar"), "pads behind the EOS say how long an answer is"


def test_validation_is_that_of_the_answers(prompts, tmp_path):
    """By hand: the AR model's nats of the answers alone."""
    result = run_module.run(request(prompts, tmp_path / "run", "ar"))
    folder = result.output_dir / "final"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    corpus = load_corpus(make_plan(request(prompts, tmp_path / "other", "ar")).preset.data, tokenizer=tokenizer)
    nats = tokens = 0
    for row in corpus.validation.dataset.select(range(8)):
        ids = torch.tensor(row["input_ids"])
        with torch.no_grad():
            logits = model(ids[None]).logits[0, :-1]
        logits[:, tokenizer.mask_token_id] = -torch.inf
        own = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")[row["num_given"] - 1 :]
        nats, tokens = nats + float(own.sum()), tokens + len(own)
    log = json.loads((result.output_dir / "training_log.json").read_text())
    assert log[-1]["validation_nats"] == pytest.approx(nats / tokens, rel=1e-4)


def test_it_learns_to_answer_and_to_stop(prompts, tmp_path):
    settings = {"training.max_steps": 120, "training.learning_rate": 1e-2, "training.warmup_steps": 10, "training.eval_every": 120,
                "model.config.hidden_size": 32, "training.batch_size": 16, "training.clip_norm": 1.0}  # fmt: skip
    result = run_module.run(request(prompts, tmp_path / "run", changes=settings))
    folder = result.output_dir / "final"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(["3 and 4?"] * 20, return_tensors="pt")
    out = model.generate(
        **inputs, max_new_tokens=16, num_diffusion_steps=16, generator=torch.Generator().manual_seed(0)
    )
    answers = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    good = [answer for answer in answers if answer and answer == " yes" * (len(answer) // 4)]
    assert len(good) > 10, answers
    assert max(map(len, good)) <= 12, "the length is learnt: three words at most"


# --- epochs -----------------------------------------------------------------------------------------------------------


def test_epochs_are_steps_over_the_training_rows_and_a_run_goes_on(prompts, tmp_path, capsys):
    rows = len(load_corpus(make_plan(request(prompts, tmp_path / "x")).preset.data).train.dataset)
    steps = round(1.5 * (rows // 8))
    changes = {"training.epochs": 1.5}
    stopped = run_module.run(request(prompts, tmp_path / "run", changes=changes, stop_after=3))
    assert (stopped.step, stopped.complete) == (3, False)
    assert f"training.epochs=1.5: {steps} steps of 8 rows" in capsys.readouterr().err
    resumed = run_module.run(request(prompts, tmp_path / "run", changes=changes, resume=True))
    assert (resumed.step, resumed.complete) == (steps, True)
    assert run_module.run(TrainingRequest(output_dir=tmp_path / "run", resume=True)).step == steps
    whole = run_module.run(request(prompts, tmp_path / "whole", changes=changes))
    weights = [load_file(folder / "final" / "model.safetensors") for folder in (resumed.output_dir, whole.output_dir)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_epochs_on_the_command_line(capsys):
    assert train.main(["--epochs", "2", "--max_steps", "5"]) == 2
    assert "training.max_steps=5 and training.epochs=2.0 both set the length of training" in capsys.readouterr().err
    line = ["--epochs", "2", "--branch_from", "x", "--set", "training.schedule=warmup_stable_decay"]
    assert train.main([*line, "--output_dir", "nowhere/x"]) == 2
    assert "--branch_from needs a number of steps" in capsys.readouterr().err


def test_a_template_on_the_command_line_is_no_yaml():
    from arche_mdlm.training.arguments import parse_changes

    changes = parse_changes(["data.template={title}\\n{text}", "data.prompt_column={a}: {b}", "data.template=null"])
    assert changes["data.prompt_column"] == "{a}: {b}"
    assert parse_changes(["data.template={title}\\n{text}"]) == {"data.template": "{title}\\n{text}"}
    assert repr(changes["data.template"]) == "null"


# --- trackers ---------------------------------------------------------------------------------------------------------


class Notebook(tracking.GeneralTracker):
    """A tracker of somebody's own, registered with Accelerate."""

    name, requires_logging_directory = "notebook", False
    seen: dict = {}

    def __init__(self, project: str, **_):
        super().__init__()
        self.seen["project"] = project

    @property
    def tracker(self):
        return self.seen

    def store_init_configuration(self, values):
        self.seen["settings"] = values

    def log(self, values, step, **_):
        self.seen.setdefault("log", []).append((step, values))

    def finish(self):
        self.seen["finished"] = True


@pytest.fixture
def notebook(monkeypatch):
    monkeypatch.setattr(Notebook, "seen", {})
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "notebook", Notebook)
    return Notebook


def test_figures_go_to_every_tracker_that_is_asked_for(prompts, tmp_path, notebook):
    run_module.run(request(prompts, tmp_path / "run", report_to=("tensorboard", "notebook")))
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    assert notebook.seen["project"] == "arche-mdlm"
    assert notebook.seen["settings"]["training.batch_size"] == 8
    assert {"loss", "validation_nats"} <= {name for _, values in notebook.seen["log"] for name in values}
    assert notebook.seen["finished"]


def test_no_tracker(prompts, tmp_path):
    run_module.run(request(prompts, tmp_path / "run", report_to=()))
    assert not (tmp_path / "run" / "tensorboard").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--report_to", "paper"], "--report_to='paper' is not one of .*tensorboard.*, or none"),
        (["--report_to", "tensorboard,swanlab"], "--report_to='swanlab' needs a package that is not installed: pip install swanlab"),
        (["--report_to", "tensorboard,tensorboard"], "names a tracker twice"),
        (["--hub_private"], "--hub_private needs --push_to_hub REPO"),
        (["--push_checkpoints"], "--push_checkpoints needs --push_to_hub REPO"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_known_before_data_is_read(monkeypatch, capsys, tmp_path, more, message):
    monkeypatch.setattr(run_module, "load_corpus", lambda *_, **__: pytest.fail("data was prepared"))
    assert train.main([*more, "--output_dir", str(tmp_path / "run")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


# --- the Hub ----------------------------------------------------------------------------------------------------------


class Api:
    """Stands in for HfApi: repositories and what was uploaded, in order."""

    private: dict = {}
    uploads: list = []
    fails = ""

    def create_repo(self, repository, private=None, exist_ok=False):
        self.private.setdefault(repository, bool(private))

    def model_info(self, repository):
        return type("Info", (), {"private": self.private[repository]})

    def upload_folder(self, repo_id, folder_path, ignore_patterns, commit_message=None):
        if self.fails and self.fails in str(folder_path):
            raise OSError("the line is down")
        names = {path.name for path in Path(folder_path).iterdir()} - set(ignore_patterns)
        self.uploads.append((commit_message, names))


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(Api, "private", {})
    monkeypatch.setattr(Api, "uploads", [])
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return Api


def pushed(prompts, output, **more) -> TrainingRequest:
    changes = {"training.save_every": 1}
    return request(prompts, output, changes=changes, push_to_hub="me/model", push_checkpoints=True, **more)


def test_each_checkpoint_is_pushed_and_the_final_model_last(prompts, tmp_path, api):
    run_module.run(pushed(prompts, tmp_path / "run", hub_private=True))
    assert api.private == {"me/model": True}
    assert [message for message, _ in api.uploads] == ["checkpoint-000001", "checkpoint-000002", None]
    for message, names in api.uploads:
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
        assert not names & {"optimizer.pt", "trainer_state.json"}
        assert ("README.md" in names) == (message is None)


def test_a_checkpoint_that_cannot_be_pushed_ends_no_training(prompts, tmp_path, api, monkeypatch, capsys):
    monkeypatch.setattr(Api, "fails", "checkpoint-000001")
    assert run_module.run(pushed(prompts, tmp_path / "run")).complete
    assert (
        "checkpoint-000001 was not pushed to me/model (OSError: the line is down); training goes on"
        in capsys.readouterr().err
    )
    assert [message for message, _ in api.uploads] == ["checkpoint-000002", None]
    assert api.private == {"me/model": False}


def test_a_public_repository_gets_nothing_that_is_private(prompts, tmp_path, api):
    Api.private["me/model"] = False
    with pytest.raises(ValueError, match="me/model exists and is public; nothing has been pushed"):
        run_module.run(pushed(prompts, tmp_path / "run", hub_private=True))
    assert api.uploads == []
    request_of_the_end = request(prompts, tmp_path / "other", push_to_hub="me/model", hub_private=True)
    with pytest.raises(ValueError, match="the model is complete in .*but was not pushed.*is public"):
        run_module.run(request_of_the_end)
    assert api.uploads == []


def test_no_repository_to_push_checkpoints_to(prompts, tmp_path, api, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("401")

    monkeypatch.setattr(Api, "create_repo", refuse)
    with pytest.raises(ValueError, match=r"no repository me/model to push to \(PermissionError: 401\)"):
        run_module.run(pushed(prompts, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
