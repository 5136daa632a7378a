"""`python -m benchmarks.data_memory`: peak memory and speed of preparing a large file, and of starting to train on it.

A JSONL file of `--gigabytes` (10^9 bytes of text) is built from a source's stories, each with a number in front, so that no two are
alike. Every part runs in a process of its own, told what to do by JSON on its standard input. Its peak is VmHWM: all that it
holds, imports included, and the pages of the memory-mapped result that it has touched, which the system takes back at will;
`own_bytes` is the peak without mapped files, looked at every few hundredths of a second. About 20 minutes on two idle cores.
"""

import argparse
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm.auto import tqdm

from arche_mdlm.training.command_line import exit_status
from arche_mdlm.training.data.sources import open_source
from arche_mdlm.training.loop.provenance import portable
from benchmarks.memory import peak_resident
from benchmarks.report import REPOSITORY, Report, describe_machine, note, write

RESULTS = Path(__file__).parent / "results" / "data_memory.json"
LAYOUTS = ("rows", "packed")
CONTEXT = 256
_SAMPLE = REPOSITORY / "training" / "sample" / "stories.jsonl"
_TOKENIZER = REPOSITORY / "checkpoints" / "ar-tinystories-mini"
_PART_BYTES = 30_000_000  # what the bare tokenizer is timed on, from the start of the file
_CALL = 1000  # texts of a call, as `datasets.map` does; a single call for all is as slow
_BATCH_SIZE, _BATCHES = 16, 100  # of the start of a training


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.data_memory", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--gigabytes", type=float, default=2.0, help="gigabytes (10^9 bytes) of text")
    add("--source", default=str(_SAMPLE), metavar="FILE", help="stories to repeat")
    add("--workers", type=int, default=2, help="threads, for the data preparation and for the tokenizer alone")
    add("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    add("--folder", type=Path, help="parent of the temporary folder; needs about four times the size of the text")
    add("--output", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    if not args.gigabytes > 0:
        parser.error(f"--gigabytes {args.gigabytes} must be more than 0")
    if args.workers < 1:
        parser.error(f"--workers {args.workers} must be at least 1")
    return args


def make_file(path: Path, source: str, num_bytes: float) -> int:
    """Stories of `source`, numbered and repeated up to `num_bytes` of text, as JSON lines; the bytes of text."""
    stories, size, numbers = _repeated(source), 0, itertools.count()
    with path.open("w", encoding="utf-8") as file, tqdm(total=num_bytes, desc="text", unit="B", unit_scale=True) as bar:
        while size < num_bytes:
            text = f"{next(numbers)}. {next(stories)}"
            file.write(json.dumps({"text": text}) + "\n")
            size += (written := len(text.encode()))
            bar.update(written)
    return size


def _repeated(source: str) -> Iterator[str]:
    found = True
    while found:
        found = False
        for story in open_source(source):
            found = True
            yield story
    raise ValueError(f"--source {source} does not contain a story")


def measure(job: str, **order) -> dict:
    """What the child answers: `job`'s own figures, `seconds`, `cpu_seconds`, `peak_bytes`, `own_bytes`, `bytes_before`.

    RuntimeError if it fails; its progress and its errors are on this process's standard error.
    """
    parallel = {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": str(order["workers"])}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.data_memory", "--child"], input=json.dumps(order | {"job": job}), text=True,
        stdout=subprocess.PIPE, cwd=REPOSITORY, env=os.environ | parallel, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the child that does {job!r} ended with code {done.returncode}; its errors are above")
    return json.loads(done.stdout)


# --- in the child -----------------------------------------------------------------------------------------------------


def prepare(file: str, layout: str, workers: int, cache: str) -> dict:
    from transformers import AutoTokenizer

    from arche_mdlm.training.data.preparing import prepare_data

    summary = prepare_data(
        file, AutoTokenizer.from_pretrained(_TOKENIZER), layout=layout, context_length=CONTEXT, num_workers=workers,
        cache_dir=cache, progress=True,
    ).summary  # fmt: skip
    # Stories that are too long for a row are read and tokenised too, but not counted by `bytes`.
    return {"rows": summary.rows, "tokens": summary.tokens, "bytes": summary.bytes, "left_out": summary.left_out}


def bare(file: str, workers: int) -> dict:
    """The tokenizer alone, on texts in memory."""
    from transformers import AutoTokenizer

    backend = AutoTokenizer.from_pretrained(_TOKENIZER).backend_tokenizer
    texts, size = [], 0
    for text in open_source(file):
        texts.append(text)
        size += len(text.encode())
        if size >= _PART_BYTES:
            break
    start, cpu = time.perf_counter(), time.process_time()
    for first in range(0, len(texts), _CALL):
        backend.encode_batch_fast(texts[first : first + _CALL], add_special_tokens=False)
    return {
        "bytes": size,
        "encode_seconds": time.perf_counter() - start,
        "encode_cpu_seconds": time.process_time() - cpu,
    }


def start_training(file: str, layout: str, workers: int, cache: str) -> dict:
    """All that `training/train.py` does with the data before its first steps, and the data of those steps."""
    from transformers import AutoTokenizer

    from arche_mdlm import MDLMConfig
    from arche_mdlm.configuration.settings import DataSettings, TrainingSettings
    from arche_mdlm.training.batches.batching import BatchPlanner
    from arche_mdlm.training.batches.step_batches import StepBatches
    from arche_mdlm.training.data.corpus import load_corpus

    os.environ["ARCHE_MDLM_CACHE"] = cache
    tokenizer = AutoTokenizer.from_pretrained(_TOKENIZER)
    settings = DataSettings(source=file, layout=layout, context_length=CONTEXT, num_workers=workers)
    corpus = load_corpus(settings, str(_SAMPLE), tokenizer, progress=True)
    planner = BatchPlanner(corpus.train_lengths, _BATCH_SIZE, CONTEXT, seed=0, short_canvas_share=0.0)
    config = MDLMConfig(vocab_size=len(tokenizer), mask_token_id=tokenizer.mask_token_id)
    batches = StepBatches(
        corpus.train.dataset, planner, TrainingSettings(batch_size=_BATCH_SIZE), config, tokenizer.pad_token_id
    )
    num_tokens = sum(batches[step]["num_tokens"] for step in tqdm(range(_BATCHES), desc="batches"))
    return {"rows": len(corpus.train.dataset), "batches": _BATCHES, "num_tokens": num_tokens}


_JOBS = {"prepare": prepare, "bare": bare, "start": start_training}


def child() -> None:
    order = json.load(sys.stdin)
    import arche_mdlm.training.data.corpus  # noqa: F401  (keep imports out of the timing)

    before, started, cpu = peak_resident(), time.perf_counter(), time.process_time()
    with _own_memory() as own:
        answer = _JOBS[order.pop("job")](**order)
    answer |= {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    print(json.dumps(answer | {"peak_bytes": peak_resident(), "own_bytes": own[0], "bytes_before": before}))


@contextmanager
def _own_memory() -> Iterator[list[int]]:
    """[peak bytes] of memory that no file is behind, while inside; 0 where the system does not say."""
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.03):
            peak[0] = max(peak[0], _anonymous())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
        peak[0] = max(peak[0], _anonymous())


def _anonymous() -> int:
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))
    except (OSError, StopIteration):
        return 0


# --- the report -------------------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    machine = describe_machine(torch.device("cpu"))
    command = ["python", "-m", "benchmarks.data_memory", *portable(sys.argv[1:] if argv is None else argv)]
    report, raw = Report(shlex.join(command)), {}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        file = Path(folder) / "stories.jsonl"
        size = make_file(file, args.source, args.gigabytes * 1e9)
        common = {"file": str(file), "workers": args.workers}
        alone = [_bare(common)]
        for layout in args.layouts:
            cache = tempfile.mkdtemp(dir=folder)
            note(f"preparing the layout {layout}")
            prepared = measure("prepare", layout=layout, cache=cache, **common)
            alone.append(_bare(common))
            note(f"starting to train on the layout {layout}")
            started = measure("start", layout=layout, cache=cache, **common)
            _add(report, layout, size, prepared, started, alone[-2:])
            raw[layout] = {"prepare": prepared, "start": started, "tokenizers": alone[-2:]}
            shutil.rmtree(cache)  # room for the next layout
        settings = {"text_bytes": size, "file_bytes": file.stat().st_size, "source": portable(args.source),
                    "workers": args.workers, "context_length": CONTEXT, "measured": raw}  # fmt: skip
    write(args.output, report, machine, settings)
    return 0


def _bare(common: dict) -> dict:
    note("the bare tokenizer")
    return measure("bare", **common)


def _add(report: Report, layout: str, size: int, prepared: dict, started: dict, alone: list[dict]) -> None:
    text = f"{size / 1e9:.3g} GB of text"
    report.record(f"data_{layout}", [prepared["tokens"] / prepared["seconds"]])
    what = (
        f"{text} to {layout} on the disk, hashing included, over `encode_batch_fast` of texts in memory just before and just "
        "after, with as many threads"
    )
    for suffix, unit, ours, theirs in (
        ("", "bytes/s", "seconds", "encode_seconds"),
        ("_cpu", "bytes/CPU s", "cpu_seconds", "encode_cpu_seconds"),  # depends less on what else the machine does
    ):
        reference = [answer["bytes"] / answer[theirs] for answer in alone]
        report.add(f"prepare_{layout}_vs_tokenizers{suffix}", [size / prepared[ours]] * 2, reference, unit, what)
    peaks = (
        ("prepare", prepared, f"peak memory of preparing {text} as {layout}"),
        ("start", started, f"peak memory of load_corpus, lengths, plan, {_BATCHES} batches of {_BATCH_SIZE} {layout}"),
    )
    for name, answer, what in peaks:
        what += ", imports and touched pages of the mapped file included, over the text's bytes; less is better"
        report.add(f"{name}_{layout}_memory", [answer["peak_bytes"]], [size], "bytes", what)


if __name__ == "__main__":
    if sys.argv[1:] == ["--child"]:
        child()
    else:
        sys.exit(exit_status(main))
