"""Shared by all commands: one-line error messages, exit statuses, and numbers within a range."""

import argparse
import copy
import errno
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from arche_mdlm.checkpoints import PAIR, SHIPPED, resolve
from arche_mdlm.configuration.extras import explain

INTERRUPTED, BAD_INPUT, CLOSED_PIPE = 130, 2, 141
LARGEST_SEED = 2**32 - 1  # what NumPy takes
MANY = 10**9  # more of anything is a slip of the finger


def exit_status(work: Callable[[], int]) -> int:
    """The result of `work`, or 2 after one line on standard error, 130 after Ctrl-C, 141 (silent) for a closed pipe."""
    try:
        status = work()
        sys.stdout.flush()  # a pipe that was closed is noticed here, not at exit
        return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _drop_standard_output()
        return CLOSED_PIPE
    except Exception as error:
        message = describe(error)
        if message is None:
            raise
        with suppress(OSError):  # the pipe's reader is gone
            print(f"error: {message}", file=sys.stderr)
        _drop_standard_output()
        return BAD_INPUT


class ListedError(ValueError):
    """An error of the input whose message is a list, with a line for each thing."""


def describe(error: Exception) -> str | None:
    """One line for an error of the input or the machine, a ListedError's own lines; None for a bug of the program."""
    if isinstance(error, ListedError):
        return str(error)
    known = isinstance(error, (ValueError, OSError, RuntimeError, ImportError, MemoryError))
    if not known and type(error).__name__ not in ("SafetensorError", "ArrowException"):
        return None
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError):
        return explain(error) or text
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" ({error.filename})" if error.filename and str(error.filename) not in text else ""
        return f"the disk is full: {text}{where}; free some space and give the same command again"
    if isinstance(error, MemoryError):
        return f"there is not enough memory: {text or 'a smaller --batch_size may fit'}"
    return (text or type(error).__name__) if known else f"a file of data or weights is damaged: {text}"


def _drop_standard_output() -> None:
    """Drop output that cannot be written: Python would retry at exit and print an error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):  # no file behind it
                nothing = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nothing, stream.fileno())
                os.close(nothing)


class HelpFormatter(argparse.HelpFormatter):
    """Shows an option's default, where it has one and its help does not name it."""

    def add_argument(self, action: argparse.Action) -> None:
        """As argparse's."""
        told = action.help is None or action.help == argparse.SUPPRESS or "default" in action.help
        if not told and action.option_strings and action.default not in (None, False, [], (), argparse.SUPPRESS):
            default = (
                " ".join(map(str, action.default)) if isinstance(action.default, (list, tuple)) else action.default
            )
            action = copy.copy(action)
            action.help = f"{action.help} (default: {str(default).replace('%', '%%')})"
        super().add_argument(action)


class HelpOf(argparse.Action):
    """Prints the help of another parser, made only then: `add_argument("-h", "--help", action=HelpOf, parser_of=make)`."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, parser_of: Callable[[], argparse.ArgumentParser]
    ) -> None:
        super().__init__(option_strings, dest, nargs=0)
        self.parser_of = parser_of

    def __call__(self, *args: Any) -> None:
        """As argparse's own help."""
        self.parser_of().print_help()
        raise SystemExit(0)


class ArgumentParser(argparse.ArgumentParser):
    """Prints errors as one line, and checks the ranges of `Number` options."""

    def error(self, message: str) -> NoReturn:
        """Exit with the message in one line."""
        self.exit(BAD_INPUT, f"error: {message} (see {self.prog} --help)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; ValueError, naming option, value and what is allowed, for a value out of its range."""
        found, rest = super().parse_known_args(args, namespace)
        for action in self._actions:
            if isinstance(action.type, Number):
                given = getattr(found, action.dest, None)
                for value in given if isinstance(given, (list, tuple)) else [given]:
                    action.type.check(action.option_strings[0] if action.option_strings else action.dest, value)
        return found, rest


@dataclass(frozen=True)
class Number:
    """The type of an option: a number from `least` to `most`, both allowed, or above `above`; never NaN, nor infinite.

    Args:
        kind: int or float.
        words: other values that are allowed, such as "auto".
    """

    kind: type
    least: float | None = None
    most: float | None = None
    above: float | None = None
    words: tuple[str, ...] = ()

    def __call__(self, text: str) -> Any:
        if text in self.words:
            return text
        try:
            return self.kind(text)
        except ValueError:
            noun = "a whole number" if self.kind is int else "a number"
            wrong = f"is neither a number nor {', '.join(self.words)}" if self.words else f"is not {noun}"
            raise argparse.ArgumentTypeError(f"{text!r} {wrong}") from None

    def check(self, name: str, value: Any) -> None:
        """ValueError for a value outside; None and words pass."""
        if value is None or isinstance(value, str):
            return
        if not math.isfinite(value):
            raise ValueError(f"{name} {value} must be a finite number{self._range(', ')}")
        if self.most == MANY and value > MANY:
            raise ValueError(f"{name} {value} must be at most {MANY}")
        low = (self.least is not None and value < self.least) or (self.above is not None and value <= self.above)
        if low or (self.most is not None and value > self.most):
            raise ValueError(f"{name} {value} must be{self._range(' ')}")

    def _range(self, before: str) -> str:
        parts = []
        if self.above is not None:
            parts.append(f"above {self.above}")
        if self.least is not None:
            parts.append(f"at least {self.least}")
        if self.most not in (None, MANY):
            parts.append(f"at most {self.most}")
        return before + " and ".join(parts) if parts else ""


def count(least: int = 1, most: int = MANY, words: tuple[str, ...] = ()) -> Number:
    """A whole number of things."""
    return Number(int, least, most, words=words)


SEED = Number(int, 0, LARGEST_SEED)
COLDEST, HOTTEST = 0.001, 1000.0  # beyond these the numbers of a softmax over- or underflow
TEMPERATURE = Number(float, COLDEST, HOTTEST)


def add_threads(parser: argparse.ArgumentParser) -> None:
    """The option `--threads`, for `threads.choose_threads`."""
    most = 4 * (os.cpu_count() or 1)
    parser.add_argument(
        "--threads",
        type=Number(int, 1, most),
        metavar="N",
        help="CPU threads (default: OMP_NUM_THREADS, else 1 or all cores, whichever is faster in a test of one second)",
    )


def device(text: str) -> str:
    """The type of an option: a device that torch has here."""
    import torch

    try:
        found = torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a device; give cpu, cuda or cuda:1") from None
    if found.type == "cuda":
        number = torch.cuda.device_count()
        if not number:
            raise argparse.ArgumentTypeError(f"{text!r}: torch sees no CUDA device here; give --device cpu")
        if (found.index or 0) >= number:
            raise argparse.ArgumentTypeError(f"{text!r}: torch sees {number} CUDA device(s), the first is cuda:0")
    try:
        torch.empty(1, device=found)
    except Exception as error:  # of many kinds, as many backends can be missing
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be used here: {' '.join(str(error).split())[:200]}"
        ) from None
    return text


def checkpoint(text: str) -> str:
    """The type of an option: a checkpoint folder, a Hub repository, or a shipped one by its name; its content is
    checked when it is loaded."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; give a checkpoint folder or a Hub repository like user/name")
    if Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is a file; give the folder of a checkpoint")
    return resolve(text)


def add_model(parser: argparse.ArgumentParser) -> None:
    """The argument `model` of commands that take either arm; by default the shipped diffusion model."""
    parser.add_argument(
        "model",
        nargs="?",
        type=checkpoint,
        default=SHIPPED["mdlm"],
        help=f"checkpoint folder or repository, MDLM or AR (default: {SHIPPED['mdlm']}, included in the library)",
    )


def add_weights(add: Callable[..., Any]) -> None:
    """The options `--dtype` and `--device`, by a group's `add_argument`."""
    add(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="dtype of the weights (default: float32)",
    )
    add(
        "--device",
        type=device,
        help="device, such as cpu, cuda, cuda:1 (default: cuda, mps or xpu if available, else cpu)",
    )


def add_pair(parser: argparse.ArgumentParser) -> None:
    """The options `--mdlm` and `--ar`."""
    for arm in PAIR:
        add_shipped(parser, arm)


def add_shipped(parser: argparse.ArgumentParser, arm: str) -> None:
    """The option `--ARM`, whose default is the shipped checkpoint of that name."""
    name = SHIPPED[arm]
    about = f"checkpoint folder or repository (default: {name}, included in the library)"
    parser.add_argument(f"--{arm}", type=checkpoint, default=f"checkpoints/{name}", help=about)


def output_file(text: str) -> Path:
    """The type of an option: a file that can be written. Only checks, does not write."""
    path = Path(text)
    if not text or not path.name or path.is_dir() or text.endswith(("/", os.sep)):
        raise argparse.ArgumentTypeError(f"{text!r} is a folder; give the name of a file")
    return path
