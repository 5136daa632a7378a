"""Run jobs, in the caller's process or in a separate one.

As a script it is a worker: it reads the working folders of jobs from its standard input, a line each, and does one after
another, until all are done or a job asks for a `fresh` process. Imports, and what a job caches, are there for the next
one. It imports nothing heavy by itself: what a job needs, its function imports."""

import json
import os
import signal
import sys
import threading
import time
import traceback
from importlib import import_module
from pathlib import Path

ORDER_FILE = "order.json"  # what to do: "function", "settings", "inputs", "fresh"
LOG_FILE = "log.txt"  # what the job prints
ANSWER_FILE = "answer.json"  # {"result"}, or {"message", "details"} of a failure


def answer_of(function: str, settings: dict, inputs: dict[str, Path], folder: Path) -> dict:
    """`{"result"}` of a job, or `{"message", "details"}` if it failed. KeyboardInterrupt passes through."""
    try:
        module, name = function.split(":")
        result = getattr(import_module(module), name)(settings, inputs, folder)
        json.dumps(result)
    except Exception as error:
        return {"message": f"{type(error).__name__}: {error}", "details": traceback.format_exc()}
    return {"result": result}


def main() -> int:
    """Run the ordered jobs; 130 when interrupted."""
    threading.Thread(target=_stop_without, args=(os.getppid(),), daemon=True).start()
    orders = os.fdopen(os.dup(0))
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)  # a job that asks a question must not read orders
    try:
        for line in orders:
            if work(Path(line.rstrip("\n"))):
                break
    except KeyboardInterrupt:
        return 130
    return 0


def work(folder: Path) -> bool:
    """Run the job of `order.json` and write `answer.json`; returns whether this process must end after it."""
    order = json.loads((folder / ORDER_FILE).read_text(encoding="utf-8"))
    with (folder / LOG_FILE).open("ab") as log:
        sys.stdout.flush(), sys.stderr.flush()
        for stream in (1, 2):  # of the process, so that libraries' output goes there too
            os.dup2(log.fileno(), stream)
    inputs = {name: Path(path) for name, path in order["inputs"].items()}
    answer = answer_of(order["function"], order["settings"], inputs, folder)
    sys.stdout.flush(), sys.stderr.flush()
    aside = folder / f".{ANSWER_FILE}.part"
    aside.write_text(json.dumps(answer), encoding="utf-8")
    os.replace(aside, folder / ANSWER_FILE)
    return order["fresh"]


def _stop_without(parent: int) -> None:
    """Interrupt this process once its parent is gone, since its answer would be lost."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.path.pop(0)  # this file's own folder, where other modules have names of libraries
    sys.exit(main())
