"""`arche-mdlm generate`: text from a checkpoint of either arm, as text or JSON lines."""

import argparse
import json
import sys
from pathlib import Path


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "generate",
        help="write text with a checkpoint of either arm",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("model", help="checkpoint folder or repository")
    add("--prompt", default="", help="what the text begins with; masks in it are filled")
    add("--num_samples", type=int, default=1)
    add("--batch_size", type=int, default=32)
    add("--seed", type=int, default=0)
    add("--max_new_tokens", type=int)
    add("--temperature", type=float, default=1.0)
    add("--top_k", type=int, default=0)
    add("--top_p", type=float, default=1.0)
    add("--num_diffusion_steps", type=int, help="diffusion arm only (default: the checkpoint's)")
    add("--sampler", help="diffusion arm only (default: the checkpoint's)")
    add("--output", type=Path, help="write JSON lines there instead of text on the terminal")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the texts; ValueError for options that do not fit the arm."""
    from transformers.utils import logging

    from arche_mdlm.studies.stories import write_stories
    from arche_mdlm.training.loading import is_diffusion, load_arm

    logging.disable_progress_bar()
    if args.num_samples < 1 or args.batch_size < 1:
        raise ValueError(f"--num_samples {args.num_samples} and --batch_size {args.batch_size} must be at least 1")
    model, tokenizer = load_arm(args.model)
    options = {"do_sample": True, "temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p}
    for name in ("num_diffusion_steps", "sampler"):
        value = getattr(args, name)
        if value is not None and not is_diffusion(model):
            raise ValueError(f"--{name} is for the diffusion arm; {args.model} is autoregressive")
        options |= {} if value is None else {name: value}
    if args.max_new_tokens is not None:
        options["max_new_tokens"] = args.max_new_tokens
    prompts = [args.prompt] * args.num_samples
    result = write_stories(model, tokenizer, prompts, seed=args.seed, batch_size=args.batch_size, **options)
    if args.output is None:
        print("\n\n".join(result.texts))
        return 0
    args.output.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(story.to_dict(), ensure_ascii=False) for story in result.stories]
    args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} texts are in {args.output}", file=sys.stderr)
    return 0
