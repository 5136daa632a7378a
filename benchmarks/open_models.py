"""`python -m benchmarks.open_models`: an open model's own way of writing and scoring against ours, with the same weights.

LLaDA's sampling loop against `generate(sampler="confidence")`, greedy, over the whole canvas and in blocks; its likelihood of an
answer against `nelbo(condition_mask=)`. Both ways of a pair write the same text; the estimates have the same expectation.
About ten minutes on one core.
"""

import argparse
import shlex
import sys
from pathlib import Path

import torch

from arche_mdlm import MDLMForMaskedDiffusion
from arche_mdlm.checkpoints import shipped
from arche_mdlm.metrics.likelihood import nelbo
from arche_mdlm.training.loop.provenance import portable
from benchmarks import llada
from benchmarks.options import add_run_options, begin, check_rounds
from benchmarks.report import Report, note, write
from benchmarks.timing import side_by_side

RESULTS = Path(__file__).parent / "results" / "open_models.json"
PROMPT_LENGTH = 8


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.open_models", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--model", default=str(shipped("mdlm")), help="folder of a masked diffusion model")
    add("--batch_size", type=int, default=8, help="texts per batch")
    add("--length", type=int, default=128, help="new tokens per text, and tokens per answer")
    add("--steps", type=int, default=64)
    add("--block_length", type=int, default=32)
    add("--draws", type=int, default=128, help="draws of the likelihood (LLaDA's default)")
    add("--draws_batch_size", type=int, default=16, help="canvases per forward of the likelihood")
    add_run_options(parser, RESULTS)
    args = parser.parse_args(argv)
    check_rounds(parser, args)
    if args.length % args.block_length or args.steps * args.block_length % args.length:
        parser.error(
            f"--length {args.length} must be a multiple of --block_length {args.block_length}, and --steps {args.steps} "
            "of the number of blocks"
        )
    return args


def writing(model, prompts: torch.Tensor, length: int, steps: int, block_length: int) -> dict:
    """Our call and LLaDA's, which write the same texts (B, P + length)."""
    options = {"sampler": "confidence", "num_diffusion_steps": steps, "max_new_tokens": length, "do_sample": False}
    if block_length < length:
        options["block_length"] = block_length
    ones = torch.ones_like(prompts)
    return {
        "ours": lambda: model.generate(prompts, attention_mask=ones, **options),
        "theirs": lambda: llada.sample(model, prompts, length, steps, block_length),
    }


def scoring(model, row: torch.Tensor, prompt_length: int, draws: int, batch_size: int) -> dict:
    """Our call and LLaDA's, which estimate the same: nats of a row's answer."""
    given = torch.arange(len(row), device=row.device)[None] < prompt_length
    return {
        "ours": lambda: nelbo(model, row[None], condition_mask=given, num_samples=draws, batch_size=batch_size,
                              generator=torch.Generator().manual_seed(0)).nats,
        "theirs": lambda: llada.answer_nats(model, row, prompt_length, draws, batch_size, torch.Generator().manual_seed(0)),
    }  # fmt: skip


def without_end(model: MDLMForMaskedDiffusion) -> MDLMForMaskedDiffusion:
    """So that both ways write all `length` tokens: LLaDA's loop does not stop at the end of a text."""
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None
    return model


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device, machine = begin(args)
    model = without_end(MDLMForMaskedDiffusion.from_pretrained(args.model, dtype=torch.float32)).to(device).eval()
    command = ["python", "-m", "benchmarks.open_models", *portable(sys.argv[1:] if argv is None else argv)]
    report = Report(shlex.join(command))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(8, model.config.vocab_size, (args.batch_size, PROMPT_LENGTH + args.length), generator=generator)
    ids = ids.masked_fill(ids == model.config.mask_token_id, 7).to(device)
    prompts, size = ids[:, :PROMPT_LENGTH], f"{args.batch_size} texts of {args.length} tokens in {args.steps} steps"
    for name, block_length in (("canvas", args.length), ("blocks", args.block_length)):
        note(f"LLaDA's loop: {name}")
        made = writing(model, prompts, args.length, args.steps, block_length)
        speed = side_by_side({way: (call, args.batch_size) for way, call in made.items()}, args.rounds, device)
        where = "over the whole canvas" if block_length == args.length else f"in blocks of {block_length}"
        report.add(f"confidence_{name}_vs_llada", speed["ours"], speed["theirs"], "texts/s",
                   f"{size} {where}, greedy, over LLaDA's loop")  # fmt: skip
    note("LLaDA's likelihood")
    made = scoring(model, ids[0], PROMPT_LENGTH, args.draws, args.draws_batch_size)
    speed = side_by_side({way: (call, args.draws) for way, call in made.items()}, args.rounds, device)
    report.add("answer_nelbo_vs_llada", speed["ours"], speed["theirs"], "draws/s",
               f"the bound of an answer of {args.length} tokens, over LLaDA's way")  # fmt: skip
    write(args.output, report, machine, {**vars(args), "output": None, "model": Path(args.model).name})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
