"""Every study that reads stories: files without any, or with too few, are refused before anything is done; failed jobs are named."""

import pytest
from random_stories import write_stories

from arche_mdlm.commands.main import main
from arche_mdlm.training.loop.trainer import Trainer

SMALL = ("overfitting", "sweep", "data-limited", "low-variance")
TINY = [
    "--set",
    "model.config.hidden_size=24",
    "--set",
    "model.config.intermediate_size=24",
    "--set",
    "model.config.num_hidden_layers=1",
]
OWN = {
    **dict.fromkeys(SMALL, ["--vocab_size", "270", "--context_length", "24", "--positions", "480", "--batch_size", "4", "--evaluations", "2",
                            "--evaluation_rows", "4", "--seeds", "0", *TINY]),
    "controlled": ["--preset", "mini", "--max_steps", "2"],
    "arche": ["--preset", "arche-mini", "--max_steps", "2"],
}  # fmt: skip
SHORT = {
    "overfitting": ["--unique_tokens", "1000"],
    "sweep": ["--unique_tokens", "1000", "--rates", "1", "--decay_shares", "0.5", "--batch_sizes", "4"],
    "data-limited": [
        "--unique_tokens",
        "1000",
        "--weight_decays",
        "0",
        "--dropouts",
        "0",
        "--exact_rows",
        "2",
        "--endings",
        "2",
    ],
    "low-variance": ["--unique_tokens", "1000", "--start_positions", "480", "--rates", "1"],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    (root / "empty.jsonl").write_text("", encoding="utf-8")
    (root / "blank.jsonl").write_text('{"text": ""}\n', encoding="utf-8")
    write_stories(root, 600)
    return root


@pytest.mark.parametrize("option", ["--data", "--validation_data"])
@pytest.mark.parametrize("name", ["empty.jsonl", "blank.jsonl", "missing.jsonl"])
@pytest.mark.parametrize("study", OWN)
def test_files_without_stories(files, tmp_path, capsys, study, name, option):
    given = {"--data": "stories.jsonl", "--validation_data": "stories.jsonl"} | {option: name}
    words = [word for key, value in given.items() for word in (key, str(files / value))]
    extra = SHORT.get(study, [])
    assert main(["study", study, *words, "--output", str(tmp_path / "x"), "--workers", "0", *OWN[study], *extra]) == 2
    assert name in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("study", SMALL)
def test_more_tokens_than_there_are(files, tmp_path, capsys, study):
    given = ["--data", str(files / "stories.jsonl"), *SHORT[study], "--unique_tokens", "1000000"]
    assert main(["study", study, *given, "--output", str(tmp_path / "x"), "--workers", "0", *OWN[study]]) == 2
    assert "unique_tokens=1000000 is more than" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("study", SMALL)
def test_a_report_without_any_training(files, tmp_path, capsys, monkeypatch, study):
    def fit(self, stop_after=None):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(Trainer, "fit", fit)
    given = [
        "--data",
        str(files / "stories.jsonl"),
        "--output",
        str(tmp_path / "x"),
        "--workers",
        "0",
        "--threads",
        "1",
    ]
    assert main(["study", study, *given, *OWN[study], *SHORT[study]]) == 1
    assert "no such luck" in capsys.readouterr().out
    assert "no such luck" in (tmp_path / "x" / "report.md").read_text(encoding="utf-8")
