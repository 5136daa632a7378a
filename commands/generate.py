"""`arche-mdlm generate`: text from a checkpoint of either arm, as text or JSON lines."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from arche_mdlm.commands import generate_options as options

if TYPE_CHECKING:
    from arche_mdlm.training.models.arms import Arm
    from arche_mdlm.training.processes import Processes
    from arche_mdlm.writing.sample_file import SampleFile


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("generate", help="generate text with a checkpoint")
    options.add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the texts; ValueError, before the weights are loaded, for options that do not fit the arm or each other."""
    from transformers.utils import logging

    from arche_mdlm.training.models.arms import arm_of
    from arche_mdlm.training.models.loading import load_config
    from arche_mdlm.training.processes import Processes
    from arche_mdlm.training.threads import choose_threads

    logging.disable_progress_bar()
    if args.device in (None, "cpu"):
        choose_threads(args.threads)
    processes = Processes(cpu=args.device == "cpu")
    try:
        config = load_config(args.model)
        arm = arm_of(config)
        options.check(args, arm)
        prompts = options.read_prompts(args)
        _check_stream(args, arm, len(prompts) * args.num_samples, processes)
        todo, file = _plan(args, config, prompts, processes)
        if todo is None:
            return 0
        return _write(args, prompts, todo, file, processes)
    finally:
        processes.close()


def _check_stream(args: argparse.Namespace, arm: "Arm", count: int, processes: "Processes") -> None:
    if processes.count > 1 and args.output is None:
        raise ValueError(f"{processes.count} processes need --output, because each writes a part of the texts")
    if not args.stream:
        return
    if processes.count > 1:
        raise ValueError("--stream works only with one process")
    if count > 1 and not arm.denoises:
        raise ValueError(f"--stream shows one text of the AR arm, but {count} are asked for")
    if count > 1:
        from arche_mdlm.commands.live_view import require_rich

        require_rich()


def _plan(
    args: argparse.Namespace, config: Any, prompts: list[str], processes: "Processes"
) -> "tuple[list[range] | None, SampleFile | None]":
    """The batches still to be written (None if all are done), and their file, if any.

    Where the memory sets the size of a batch, these are single texts, which are put together once the model is loaded.
    """
    from arche_mdlm.training.models.arms import arm_of
    from arche_mdlm.writing.sample_file import SampleFile

    total, size = len(prompts) * args.num_samples, options.fixed_batch_size(args, arm_of(config)) or 1
    if args.output is None:
        return [range(first, min(first + size, total)) for first in range(0, total, size)], None
    device = args.device or processes.default_device()

    def begin() -> list[range] | None:
        settings = options.settings_of(args, config, prompts, device)
        return SampleFile(args.output, total, size, settings).begin(args.overwrite)

    todo = processes.from_main(begin)
    if todo is None and processes.is_main:
        print(f"{args.output} is already complete with these settings ({total} texts); nothing to do", file=sys.stderr)
    return todo, SampleFile(args.output, total, size)


def _write(
    args: argparse.Namespace, prompts: list[str], todo: list[range], file: "SampleFile | None", processes: "Processes"
) -> int:
    total = len(prompts) * args.num_samples
    writer = _Writer(args, prompts, args.device or processes.default_device())
    if file is None:
        _print_texts(_bar(writer.write(todo), total, processes, args.stream), args.stream)
        return 0
    try:
        _write_file(file, todo, writer, processes, args.stream)
    except KeyboardInterrupt:
        if processes.is_main:
            print(
                f"\ninterrupted: {file.num_done()} of {total} texts are saved next to {args.output}; resume with\n"
                f"  {options.command_line(args)}",
                file=sys.stderr,
            )
        return 130
    if processes.is_main:
        print(f"{total} texts are in {args.output}", file=sys.stderr)
    return 0


def _print_texts(batches: Iterable[list[dict]], shown: bool) -> None:
    """Print each batch's texts when it is done, separated by empty lines; not if a streamer has shown them."""
    from tqdm.auto import tqdm

    for number, text in enumerate(record["text"] for batch in batches for record in batch):
        if not shown:
            with tqdm.external_write_mode():  # no bar in the way, where both are on a terminal
                print(("\n" if number else "") + text, flush=True)


def _write_file(file: "SampleFile", todo: list[range], writer: "_Writer", processes: "Processes", quiet: bool) -> None:
    """This process's share of the batches; the main process puts all of them together."""
    own = todo[processes.index :: processes.count]
    done = file.num_samples - sum(len(batch) for batch in todo)
    total = file.num_samples
    if processes.count > 1:
        total, done = sum(len(batch) for batch in own), 0
    for records in _bar(writer.write(own), total, processes, quiet, done):
        file.append(records, processes.index)
    processes.wait()
    if processes.is_main:
        file.finish()


def _bar(
    batches: Iterable[list[dict]], total: int, processes: "Processes", quiet: bool, done: int = 0
) -> Iterator[list[dict]]:
    """Go through batches behind a progress bar in texts; with several processes it shows the main one's share."""
    from tqdm.auto import tqdm

    name = "writing" if processes.count == 1 else f"writing (process 1 of {processes.count})"
    with tqdm(total=total, initial=done, desc=name, unit="text", disable=quiet or not processes.is_main) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))


class _Writer:
    """Writes samples, given by their numbers, as records; loads the checkpoint."""

    def __init__(self, args: argparse.Namespace, prompts: list[str], device: str):
        import torch

        from arche_mdlm.compiling_mdlm import compile_layers
        from arche_mdlm.training.models.arms import arm_of
        from arche_mdlm.training.models.loading import load_arm

        self.args, self.prompts = args, prompts
        model, self.tokenizer = load_arm(args.model, getattr(torch, args.dtype))
        self.model = model.to(device).eval()
        self.arm = arm_of(model)
        if not self.arm.denoises and any(self.tokenizer.mask_token and self.tokenizer.mask_token in p for p in prompts):
            raise ValueError(f"a prompt contains a mask, but {args.model} is autoregressive and cannot fill masks")
        if not self.arm.denoises:
            self._check_length()
        if args.compile:
            compile_layers(self.model)

    def write(self, batches: list[range]) -> Iterator[list[dict]]:
        """The records of one batch after another; with `auto` batches are divided further to fit the memory."""
        if options.fixed_batch_size(self.args, self.arm) is not None:
            yield from map(self._batch, batches)
            return
        from arche_mdlm.metrics.batch_sizes import BatchSize, estimate

        sizes = BatchSize(estimate(self.model, self._length()), halves=True)
        for _, records in sizes.run([number for batch in batches for number in batch], self._batch):
            yield records

    def _check_length(self) -> None:
        """ValueError for texts that the AR arm's context does not hold; the diffusion arm checks its canvas itself."""
        context = self.model.config.max_position_embeddings
        longest = max(len(ids) for ids in self.tokenizer(sorted(set(self.prompts)))["input_ids"])
        new, length = self.args.max_new_tokens, self.args.max_length
        if new == 0:
            raise ValueError(f"--max_new_tokens 0 fills masks, but {self.args.model} is autoregressive and has none")
        if longest + (1 if new is None else new) > context:
            asked = "" if new is None else f" and --max_new_tokens {new}"
            raise ValueError(f"a prompt of {longest} tokens{asked} do not fit the context of {context} tokens")
        if length is not None and not longest < length <= context:
            raise ValueError(
                f"--max_length {length} must be above {longest}, the longest prompt, and at most {context}"
            )

    def _length(self) -> int:
        """The most tokens that a text has, its prompt included."""
        context = self.model.config.max_position_embeddings
        if self.args.max_new_tokens is not None:
            longest = max(len(ids) for ids in self.tokenizer(sorted(set(self.prompts)), verbose=False)["input_ids"])
            return min(context, longest + self.args.max_new_tokens)
        return min(context, self.args.max_length or self.model.generation_config.max_length or context)

    def _batch(self, numbers: Sequence[int]) -> list[dict]:
        from arche_mdlm.writing.stories import own_seed, write_batch

        prompts = [self.prompts[i // self.args.num_samples] for i in numbers]
        seeds = [own_seed(self.args.seed, i) for i in numbers]
        batch = write_batch(self.model, self.tokenizer, prompts, seeds, self._generate_options(len(prompts)))
        forwards: Sequence[int | None] = batch.num_forward_passes or [None] * len(prompts)
        return [
            story.to_dict() | {"index": i} | ({} if count is None else {"num_forward_passes": count})
            for i, story, count in zip(numbers, batch.stories, forwards, strict=True)
        ]

    def _generate_options(self, rows: int) -> dict:
        chosen = options.generate_options(self.args)
        if self.args.negative_prompt is not None:
            encoded = self.tokenizer([self.args.negative_prompt] * rows, return_tensors="pt").to(self.model.device)
            chosen["negative_prompt_ids"] = encoded["input_ids"]
            chosen["negative_prompt_attention_mask"] = encoded["attention_mask"]
        if self.args.stream:
            from arche_mdlm.commands.live_view import make_streamer

            chosen["streamer"] = make_streamer(self.tokenizer, rows, self.arm.denoises)
        return chosen
