"""The number of threads: what is asked for, the environment's, or the faster one of a trial."""

import pytest
import torch

from arche_mdlm.training import threads
from arche_mdlm.training.threads import choose_threads, run_trial


@pytest.fixture(autouse=True)
def four_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = {"now": 4}
    monkeypatch.setattr(torch, "get_num_threads", lambda: found["now"])
    monkeypatch.setattr(torch, "set_num_threads", lambda number: found.update(now=number))
    return found


class Machine:
    """A clock that work moves on, by so many seconds at each number of threads."""

    def __init__(self, seconds: dict[int, float]):
        self.seconds, self.threads, self.now, self.turns = seconds, 4, 0.0, 0

    def work(self) -> None:
        self.now += self.seconds[self.threads]
        self.turns += 1

    def set_threads(self, number: int) -> None:
        self.threads = number

    def trial(self) -> tuple[int, float]:
        return run_trial(self.work, lambda: self.now, self.set_threads)


@pytest.mark.parametrize(
    ("seconds", "chosen", "gain"),
    [
        ({1: 0.004, 4: 0.002}, 4, 2.0),
        ({1: 0.004, 4: 0.1}, 1, 0.04),  # a machine that does something else
        ({1: 0.004, 4: 0.0039}, 1, 0.004 / 0.0039),  # not worth it
    ],
)
def test_the_faster_number_is_chosen(seconds, chosen, gain):
    machine = Machine(seconds)
    assert machine.trial() == (chosen, pytest.approx(gain))
    assert machine.now < 1.0 + 2 * sum(seconds.values()) + 1e-9, "about a second"


def test_a_very_slow_machine_is_asked_once():
    machine = Machine({1: 0.1, 4: 30.0})
    assert machine.trial()[0] == 1
    assert machine.turns == 4


def test_what_is_asked_for_is_taken(four_cores, monkeypatch):
    monkeypatch.setattr(threads, "run_trial", None)
    assert choose_threads(3) == 3
    assert four_cores["now"] == 3


@pytest.mark.parametrize("why", ["environment", "gpu", "one core"])
def test_there_is_no_trial_where_nothing_is_to_be_chosen(four_cores, monkeypatch, why):
    monkeypatch.setattr(threads, "run_trial", None)
    if why == "environment":
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
    if why == "gpu":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if why == "one core":
        four_cores["now"] = 1
    said = []
    assert choose_threads(None, say=said.append) == four_cores["now"]
    assert said == []


@pytest.mark.parametrize(
    ("result", "line"),
    [
        ((4, 1.8), "4 threads: in a trial, 4 were 1.8 times as fast as one ("),
        ((1, 0.05), "1 thread: in a trial, 4 were 20.0 times as slow as one ("),
    ],
)
def test_the_result_is_said_in_one_line(four_cores, result, line):
    said = []
    assert choose_threads(None, say=said.append, trial=lambda: result) == result[0]
    assert len(said) == 1
    assert said[0].startswith(line)


def test_the_real_trial_ends():
    number, gain = run_trial(set_threads=lambda number: None)
    assert number in (1, 4)
    assert gain > 0
