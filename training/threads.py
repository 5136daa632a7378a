"""How many CPU threads torch gets: what is asked for, else what a trial of a second finds fastest.

On an idle machine all cores are faster than one; where something else runs, threads that wait for each other can be many times
slower.
"""

import os
import sys
import time
from collections.abc import Callable
from statistics import median

import torch

_SECONDS = 1.0  # of the trial
_ROUNDS = 60  # at most
_WORTH_IT = 1.1  # all threads are taken if they are so many times as fast as one


def choose_threads(
    asked: int | None,
    *,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    trial: Callable[[], tuple[int, float]] | None = None,
) -> int:
    """Set torch's number of threads and return it.

    Args:
        asked: the number; None: that of OMP_NUM_THREADS or of a machine with a GPU or one core as it is, else by the trial.
        say: gets a line about the trial's result.
        trial: in place of `run_trial`.
    """
    if asked is not None:
        torch.set_num_threads(asked)
    elif "OMP_NUM_THREADS" not in os.environ and not torch.cuda.is_available() and torch.get_num_threads() > 1:
        most = torch.get_num_threads()
        chosen, gain = (trial or run_trial)()
        torch.set_num_threads(chosen)
        how = f"{gain:.1f} times as fast as one" if gain >= 1 else f"{1 / gain:.1f} times as slow as one"
        say(f"{chosen} thread{'s' * (chosen > 1)}: in a trial, {most} were {how} (--threads N sets another number)")
    return torch.get_num_threads()


def run_trial(
    work: Callable[[], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    set_threads: Callable[[int], None] = torch.set_num_threads,
) -> tuple[int, float]:
    """(threads, gain): 1 or all, and how many times as fast as one all of them are, from turns of `work` at both."""
    work, most = work or _small_layer(), torch.get_num_threads()
    seconds: dict[int, list[float]] = {1: [], most: []}
    end = clock() + _SECONDS
    for _ in range(_ROUNDS):
        for number in seconds:
            set_threads(number)
            work()  # the first turn after a change wakes the threads up
            start = clock()
            work()
            seconds[number].append(clock() - start)
        if clock() >= end:
            break
    gain = median(seconds[1]) / median(seconds[most])
    return (most if gain >= _WORTH_IT else 1), gain


def _small_layer() -> Callable[[], None]:
    """Products and a softmax of about the shapes of a small model's step; some milliseconds on one thread."""
    states, weight, head = torch.randn(512, 192), torch.randn(192, 768), torch.randn(768, 1024)

    def work() -> None:
        with torch.no_grad():
            torch.softmax(torch.nn.functional.gelu(states @ weight) @ head, -1)

    return work
