"""Studies as lists of jobs: which jobs run, which run again, and the state after a crash, a failure or Ctrl-C."""

import json
import os
import subprocess
import sys

import pytest

from arche_mdlm.studies.engine import keys as hashes
from arche_mdlm.studies.engine.jobs import FORMAT_VERSION, Job, Plan, StudyFolder, describe_time
from arche_mdlm.studies.engine.runner import StudyRunner

TOYS = '''
import json, os, time
from pathlib import Path

BAD = "bad"

def note(folder, name):
    with (Path(folder).parents[1] / "calls.txt").open("a") as file:
        file.write(name + "\\n")

def add(settings, inputs, folder):
    """A number plus those of the jobs it needs."""
    note(folder, settings["name"])
    if settings.get("crash"):
        os._exit(9)
    if settings.get("interrupt") and not (Path(folder).parents[1] / "again").exists():
        (folder / "half").write_text("kept")
        raise KeyboardInterrupt
    if settings.get(BAD):
        raise ValueError("loss is nan at step 7")
    time.sleep(settings.get("seconds", 0))
    (folder / "file.txt").write_text(settings["name"])
    values = [json.loads((path / "result.json").read_text())["result"]["value"] for path in inputs.values()]
    return {"value": settings["value"] + sum(values), "half": (folder / "half").exists(), "pid": os.getpid(),
            "threads": os.environ.get("OMP_NUM_THREADS"), "from": sorted(inputs)}
'''


@pytest.fixture(autouse=True)
def _toys(tmp_path, monkeypatch):
    """A module `toys` for this process and its children."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "toys.py").write_text(TOYS)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    yield
    sys.modules.pop("toys", None)


def job(name, needs=(), value=1, kind="add", tolerant=False, seconds=1.0, fresh=False, **settings):
    settings |= {"name": name, "value": value}
    return Job(name, kind, "toys:add", settings, tuple(needs), seconds, tolerant=tolerant, fresh=fresh)


def diamond(**changes):
    """a, then b and c, then d; keyword arguments change settings by job."""
    needs = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}
    return Plan(tuple(job(name, needs[name], **changes.get(name, {})) for name in needs), data_hash="text")


def calls(root):
    """Jobs called since the last question."""
    path = root / "calls.txt"
    found = path.read_text().split() if path.is_file() else []
    path.unlink(missing_ok=True)
    return found


def run(root, plan, **options):
    lines = []
    runner = StudyRunner(root, plan, show=lines.append, **options)
    return runner.run(), lines


def test_results_and_what_is_not_done_again(tmp_path):
    root = tmp_path / "study"
    failed, lines = run(root, diamond())
    assert failed == {}
    assert calls(root) == ["a", "b", "c", "d"]
    folder = StudyFolder(root, diamond())
    assert folder.result("d")["value"] == 5
    assert folder.result("d")["from"] == ["b", "c"]
    assert (folder.path("d") / "file.txt").read_text() == "d"
    assert "4 jobs, 0 of them done, 4 to do, about 4 s" in lines[0]
    assert any(line.startswith("done: a in 0 s, 3 left") for line in lines)
    assert not list((root / "work").iterdir())

    failed, lines = run(root, diamond())
    assert (failed, calls(root)) == ({}, [])
    assert lines == ["4 jobs, 4 of them done, 0 to do"]

    # Other settings: the job itself and what depends on it.
    run(root, diamond(b={"value": 10}))
    assert calls(root) == ["b", "d"]
    assert StudyFolder(root, diamond(b={"value": 10})).result("d")["value"] == 14
    # The way back costs nothing.
    run(root, diamond())
    assert calls(root) == []
    # Other data: all of it. Another version of the code: what it made, and what depends on that.
    run(root, Plan(diamond().jobs, data_hash="other"))
    assert calls(root) == ["a", "b", "c", "d"]
    newer = Plan(tuple(Job(**vars(j) | {"version": 2}) if j.name == "c" else j for j in diamond()), "text")
    run(root, newer)
    assert calls(root) == ["c", "d"]


def test_results_of_other_code_are_not_used(tmp_path):
    """The code of the job, and of all that it imports; not the layout of the code."""
    modules, root = tmp_path / "modules", tmp_path / "study"
    (modules / "toypack").mkdir()
    (modules / "toypack" / "__init__.py").write_text("")
    (modules / "toypack" / "work.py").write_text(
        "from pathlib import Path\n\ndef value(settings, inputs, folder):\n    from .deep import number\n"
        "    return {'value': number()}\n"
    )
    (modules / "toypack" / "deep.py").write_text("from toypack import deeper\n\ndef number():\n    return deeper.ONE\n")
    (modules / "toypack" / "deeper.py").write_text("ONE = 1\n")
    (modules / "toypack" / "other.py").write_text("ONE = 1\n")

    def result():
        for name in [name for name in sys.modules if name.startswith("toypack")]:
            del sys.modules[name]
        plan = Plan((Job("x", "k", "toypack.work:value"), job("y", ("x",))))
        done = StudyFolder(root, plan).is_done("x")
        run(root, plan)
        return done, StudyFolder(root, plan).result("x")["value"]

    assert [result(), result()] == [(False, 1), (True, 1)]
    (modules / "toypack" / "deeper.py").write_text('"""A docstring."""\n\nONE = (1)  # a comment\n')
    (modules / "toypack" / "other.py").write_text("ONE = 7\n")  # nothing reaches it
    assert result() == (True, 1)
    (modules / "toypack" / "deeper.py").write_text("ONE = 20\n")
    assert result() == (False, 20)
    with pytest.raises(ValueError, match="module 'nowhere' of a job cannot be found"):
        Plan((Job("x", "k", "nowhere:value"),))


@pytest.mark.parametrize(
    ("module", "reached"),
    [
        ("arche_mdlm.studies.controlled.jobs", ["metrics.diversity.diversity", "training.loop", "samplers_mdlm", "writing.stories"]),
        ("arche_mdlm.studies.arche.jobs", ["metrics.diversity.diversity", "ordered_samplers_mdlm", "studies.engine.trainings"]),
        ("arche_mdlm.studies.speed_quality.jobs", ["metrics.judge", "metrics.diversity.diversity", "generation_mdlm"]),
        ("arche_mdlm.training.loop.evaluation", ["metrics.corpus_likelihood", "metrics.likelihood", "modeling_mdlm"]),
    ],
)  # fmt: skip
def test_the_code_that_the_jobs_of_studies_reach(module, reached, monkeypatch):
    """A change in any of these files changes the hash: each is made to read differently in turn."""
    real, before = hashes._read, hashes.code_hash(module)
    for name in reached:
        monkeypatch.setattr(
            hashes, "_read", lambda path, changed, own, *rest, name=name: (
                ("changed" if own == f"arche_mdlm.{name}" else real(path, changed, own, *rest)[0]),
                real(path, changed, own, *rest)[1],
            ),
        )  # fmt: skip
        assert hashes.code_hash(module) != before, name
    monkeypatch.setattr(hashes, "_read", real)
    assert hashes.code_hash(module) == before


def test_interrupted_and_resumed(tmp_path):
    root = tmp_path / "study"
    plan = diamond(b={"interrupt": True})
    with pytest.raises(KeyboardInterrupt):
        run(root, plan)
    assert calls(root) == ["a", "b"]
    (root / "again").touch()
    assert run(root, plan)[0] == {}
    assert calls(root) == ["b", "c", "d"]
    assert StudyFolder(root, plan).result("b")["half"]  # what it had was there when it went on
    assert not StudyFolder(root, plan).result("c")["half"]


def test_failure_is_recorded_skips_dependants_and_is_tried_again(tmp_path, monkeypatch):
    root = tmp_path / "study"
    plan = Plan((*diamond(b={"bad": True}).jobs, job("summary", ("c", "d"), tolerant=True)), "text")
    failed, lines = run(root, plan)
    assert failed == {"b": "ValueError: loss is nan at step 7", "d": "skipped, because b failed"}
    assert calls(root) == ["a", "b", "c", "summary"]
    assert any(line == "FAILED: b: ValueError: loss is nan at step 7" for line in lines)
    folder = StudyFolder(root, plan)
    assert folder.failure("b") == failed["b"]
    assert folder.result("summary")["from"] == ["c"]
    dry = []
    StudyRunner(root, plan, show=dry.append).dry_run()
    assert any("(failed: ValueError: loss is nan" in line for line in dry)

    assert set(run(root, plan)[0]) == {"b", "d"}
    assert calls(root) == ["b"]
    # Once it works, the tolerant job is done again with all of it.
    monkeypatch.setattr(sys.modules["toys"], "BAD", None)
    assert run(root, plan)[0] == {}
    assert sorted(calls(root)) == ["b", "d", "summary"]
    assert folder.failure("b") is None
    assert folder.result("summary")["from"] == ["c", "d"]


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path):
    lines = []
    runner = StudyRunner(tmp_path / "study", diamond(), show=lines.append)
    runner.dry_run()
    assert [line.split()[-1] for line in lines[:-1]] == ["a", "b", "c", "d"]
    assert lines[-1] == "4 jobs, 0 of them done, 4 to do, about 4 s"
    assert not (tmp_path / "study").exists()


def test_estimates(tmp_path):
    plan = Plan((job("x", seconds=100.0, value=1, kind="slow"), job("y", seconds=300.0, kind="slow")))
    folder = StudyFolder(tmp_path, plan)
    assert folder.estimate(plan) == 400
    assert folder.estimate(plan, workers=2) == 300  # the longest
    folder.create()
    folder.begin("x")
    folder.finish("x", {}, seconds=50.0)
    assert folder.estimate(folder.left()) == 150  # twice as fast as thought
    chain = diamond()
    assert StudyFolder(tmp_path / "other", chain).estimate(chain, workers=4) == 3
    assert [describe_time(s) for s in (40, 700, 12600)] == ["40 s", "12 min", "3.5 h"]


def test_two_workers(tmp_path):
    root = tmp_path / "study"
    plan = diamond(b={"seconds": 0.3}, c={"seconds": 0.3})
    assert run(root, plan, workers=2, threads=1)[0] == {}
    assert sorted(calls(root)) == ["a", "b", "c", "d"]
    results = {name: StudyFolder(root, plan).result(name) for name in "abcd"}
    pids = {result["pid"] for result in results.values()}
    assert len(pids) == 2  # of each worker, which does job after job
    assert os.getpid() not in pids
    assert {result["threads"] for result in results.values()} == {"1"}
    assert results["d"]["value"] == 5


def test_a_fresh_job_has_a_process_to_itself(tmp_path):
    root = tmp_path / "study"
    plan = diamond(b={"fresh": True}, c={"fresh": True})
    assert run(root, plan, workers=1)[0] == {}
    assert len({StudyFolder(root, plan).result(name)["pid"] for name in "abcd"}) == 4


def test_a_job_cannot_read_the_orders_of_the_next(tmp_path):
    """Its standard input is empty, its output goes to its own log."""
    (tmp_path / "modules" / "asking.py").write_text(
        "import sys\n\ndef ask(settings, inputs, folder):\n    print('asked', flush=True)\n"
        "    return {'read': sys.stdin.read(), 'log': (folder / 'log.txt').read_text()}\n"
    )
    jobs = tuple(Job(name, "ask", "asking:ask", {"name": name}) for name in "ab")
    root, plan = tmp_path / "study", Plan(jobs)
    assert run(root, plan, workers=1)[0] == {}
    for name in "ab":
        assert StudyFolder(root, plan).result(name) == {"read": "", "log": "asked\n"}


def test_a_killed_worker_loses_its_own_job_only(tmp_path):
    root = tmp_path / "study"
    plan = diamond(b={"crash": True})
    failed, _ = run(root, plan, workers=2)
    assert failed["b"].startswith("its process ended with exit status 9; its output is in ")
    assert failed["d"] == "skipped, because b failed"
    assert StudyFolder(root, plan).is_done("c")


def test_bad_plans_and_folders(tmp_path):
    with pytest.raises(ValueError, match="name='a b' of a job"):
        job("a b")
    with pytest.raises(ValueError, match="must be 'package.module:function'"):
        Job("a", "k", "toys.add")
    with pytest.raises(ValueError, match="do not fit JSON"):
        Job("a", "k", "toys:add", {"x": object()})
    with pytest.raises(ValueError, match="two jobs have the name 'a'"):
        Plan((job("a"), job("a")))
    with pytest.raises(ValueError, match="'a' needs z: no such job"):
        Plan((job("a", ("z",)),))
    with pytest.raises(ValueError, match="in a cycle"):
        Plan((job("a", ("b",)), job("b", ("a",))))
    with pytest.raises(ValueError, match="workers=-1 must be"):
        StudyRunner(tmp_path, diamond(), workers=-1)
    (tmp_path / "study.json").write_text(json.dumps({"format": FORMAT_VERSION + 1}))
    with pytest.raises(ValueError, match=f"a study of format {FORMAT_VERSION + 1}, this version writes"):
        StudyRunner(tmp_path, diamond())
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(ValueError, match="is not the plan of a study"):
        StudyRunner(tmp_path, diamond())


def test_one_study_at_a_time_in_a_folder(tmp_path):
    root = tmp_path / "study"
    StudyFolder(root, diamond()).create()
    code = "import fcntl, sys\nf = open(sys.argv[1], 'w')\nfcntl.flock(f, fcntl.LOCK_EX)\nprint(1, flush=True)\ninput()"
    command = [sys.executable, "-c", code, str(root / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(ValueError, match="another process uses"):
            run(root, diamond())
        other.stdin.close()
