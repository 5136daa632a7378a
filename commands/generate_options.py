"""The options of `arche-mdlm generate`, and what of them goes on to the model's `generate`."""

import argparse
import hashlib
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arche_mdlm.training.command_line import (
    HOTTEST,
    SEED,
    TEMPERATURE,
    Number,
    add_model,
    add_threads,
    add_weights,
    count,
    output_file,
)

if TYPE_CHECKING:
    from arche_mdlm.training.models.arms import Arm

_DRAWING = ("temperature", "temperature_end", "top_k", "top_p")
_BOTH_ARMS = ("max_new_tokens", "max_length", "temperature", "top_k", "top_p", "repetition_penalty")
_AR_BATCH_SIZE = 32
# Named here, as the help must not load torch.
SAMPLERS = (
    "ancestral",
    "arche",
    "confidence",
    "entropy",
    "entropy_bound",
    "first_hitting",
    "margin",
    "remdm",
    "threshold",
)
UNIFORM_SAMPLERS = ("ancestral", "gibbs", "psi")
_DIFFUSION_ONLY = (
    "temperature_end",
    "num_diffusion_steps",
    "sampler",
    "block_length",
    "threshold",
    "threshold_factor",
    "entropy_bound",
    "remasking",
    "remasking_rate",
    "kappa",
    "corrector_steps",
    "greedy_tail",
    "guidance_scale",
    "prefix_cache",
    "negative_prompt",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add = parser.add_argument_group("text").add_argument
    add(
        "--prompt",
        action="append",
        help="beginning of the text (default: none); masks in it are filled; may be repeated",
    )
    add(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="file with one prompt per line: text, or JSON with a field `prompt` or `text`",
    )
    add("--num_samples", type=count(), default=1, metavar="N", help="texts per prompt (default: 1)")
    add(
        "--seed",
        type=SEED,
        default=0,
        help="random seed; a text of a diffusion model depends only on the seed and its number (default: 0)",
    )
    add(
        "--max_new_tokens",
        type=count(0),
        metavar="N",
        help="tokens after the prompt; 0 fills only the masks of the prompt",
    )
    add("--max_length", type=count(), metavar="N", help="tokens of prompt and text together")
    add = parser.add_argument_group("sampling, all models (default: from the checkpoint)").add_argument
    add(
        "--temperature",
        type=Number(float, 0, HOTTEST),
        help="0 means --greedy; for MDLM 0.7 gives much better but less diverse texts than 1 (see docs/generation.md)",
    )
    add("--top_k", type=count(0), help="0 keeps all tokens")
    add("--top_p", type=Number(float, above=0, most=1))
    add("--repetition_penalty", type=Number(float, above=0, most=1000))
    add("--greedy", action="store_true", help="take the most probable tokens instead of sampling")
    add = parser.add_argument_group("sampling, diffusion models only (default: from the checkpoint)").add_argument
    add("--num_diffusion_steps", type=count(), metavar="N")
    add(
        "--sampler",
        metavar="NAME",
        help=f"{', '.join(SAMPLERS)}; for a model of uniform noise {', '.join(UNIFORM_SAMPLERS)}",
    )
    add(
        "--block_length", type=count(), metavar="N", help="fill the canvas in blocks of N positions, from left to right"
    )
    add(
        "--prefix_cache",
        action="store_true",
        default=None,
        help="with --block_length: cache keys and values outside the block; faster, but an approximation for most models",
    )
    add(
        "--temperature_end",
        type=TEMPERATURE,
        help="final temperature; it changes linearly from --temperature",
    )
    add(
        "--threshold",
        type=Number(float, above=0, most=1),
        help="sampler threshold: fill tokens with at least this probability",
    )
    add(
        "--threshold_factor",
        type=Number(float, above=0),
        help="sampler threshold: makes the threshold depend on the number of filled tokens",
    )
    add("--entropy_bound", type=Number(float, 0), help="sampler entropy_bound: bound in nats")
    add("--remasking", choices=("cap", "rescale", "conf", "loop"), help="sampler remdm: remasking schedule")
    add("--remasking_rate", type=Number(float, 0, 1), help="sampler remdm: strength of remasking")
    add("--kappa", type=Number(float, 0, 1), help="sampler psi: share of ancestral steps (default: 0.95)")
    add("--corrector_steps", type=count(0), metavar="N", help="sampler gibbs: corrections per step (default: 1)")
    add(
        "--greedy_tail",
        action="store_true",
        default=None,
        help="uniform noise: take the most probable tokens in the last step",
    )
    add(
        "--guidance_scale",
        type=Number(float, 0, 1000),
        help="classifier-free guidance; 1 turns it off, higher values are stronger",
    )
    add("--negative_prompt", help="prompt that guidance moves away from")
    add = parser.add_argument_group("execution").add_argument
    add(
        "--batch_size",
        type=count(words=("auto",)),
        default="auto",
        metavar="N",
        help="texts per batch (default: auto, as many as fit into memory; 32 for an AR model)",
    )
    add_weights(add)
    add(
        "--compile",
        action="store_true",
        help="torch.compile the layers of a diffusion model: faster for many texts; needs a C++ compiler on a CPU",
    )
    add_threads(parser)
    add("--stream", action="store_true", help="show the text while it is generated")
    add(
        "--output",
        type=output_file,
        metavar="FILE.jsonl",
        help="write JSON lines to FILE; run the same command again to resume",
    )
    add("--overwrite", action="store_true", help="delete what this command has written to --output, and start over")


def fixed_batch_size(args: argparse.Namespace, arm: "Arm") -> int | None:
    """Texts in a batch; None: as many as fit into memory.

    That is for arms whose texts have their own random streams: texts of the AR arm depend on their batch, and must not depend
    on the machine.
    """
    if args.batch_size != "auto":
        return args.batch_size
    return None if arm.own_streams else _AR_BATCH_SIZE


def check(args: argparse.Namespace, arm: "Arm") -> None:
    """ValueError, naming the option, if it does not fit the arm or another option."""
    if args.temperature == 0:
        args.greedy, args.temperature = True, None
    TEMPERATURE.check("--temperature", args.temperature)
    if args.overwrite and args.output is None:
        raise ValueError("--overwrite needs --output")
    if args.max_new_tokens is not None and args.max_length is not None:
        raise ValueError("--max_new_tokens and --max_length cannot be used together; give one of them")
    for name in _DRAWING:
        if args.greedy and getattr(args, name) is not None:
            raise ValueError(f"--greedy (or --temperature 0) does not accept --{name}: greedy decoding does not sample")
    for name in _DIFFUSION_ONLY:
        if not arm.denoises and getattr(args, name) is not None:
            raise ValueError(f"--{name} is for diffusion models; {args.model} is autoregressive")
    if args.compile and not arm.denoises:
        raise ValueError(f"--compile is for diffusion models; {args.model} is autoregressive")
    if args.compile and args.prefix_cache:
        raise ValueError("--compile and --prefix_cache cannot be used together; give one of them")
    if args.sampler is not None and args.sampler not in UNIFORM_SAMPLERS:  # the model tells which noise it has
        from arche_mdlm.samplers_mdlm import get_sampler

        get_sampler(args.sampler)  # its error names the nearest one
    if args.negative_prompt is not None and args.guidance_scale is None:
        raise ValueError("--negative_prompt needs --guidance_scale")


def generate_options(args: argparse.Namespace) -> dict:
    """The given options as arguments of `generate`; for the others the checkpoint's defaults apply."""
    names = [name for name in (*_BOTH_ARMS, *_DIFFUSION_ONLY) if name != "negative_prompt"]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return {"do_sample": not args.greedy} | given


def read_prompts(args: argparse.Namespace) -> list[str]:
    """Those of --prompt, then those of --prompts; the empty prompt where neither is given."""
    prompts = list(args.prompt or [])
    if args.prompts is not None:
        prompts += _prompts_of(args.prompts)
    return prompts or [""]


def _prompts_of(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # `splitlines` would cut at U+2028 and its like too
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--prompts {path} cannot be read: {error}") from error
    parse = _json_prompt if path.suffix in (".jsonl", ".json", ".ndjson") else lambda line, place: line
    prompts = [parse(line, f"{path}, line {i}") for i, line in enumerate(lines, start=1) if line.strip()]
    if not prompts:
        raise ValueError(f"--prompts {path} does not contain a prompt")
    return prompts


def _json_prompt(line: str, place: str) -> str:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} is not valid JSON: {error}") from error
    fields = value if isinstance(value, dict) else {}
    prompt = fields.get("prompt", fields.get("text"))
    if not isinstance(prompt, str):
        raise ValueError(f"{place} is not an object with a text in its field `prompt` or `text`")
    return prompt


def settings_of(args: argparse.Namespace, config: Any, prompts: list[str], device: str) -> dict:
    """Everything that a text depends on; two runs with equal settings write the same file."""
    from arche_mdlm.training.models.arms import arm_of
    from arche_mdlm.writing.checkpoint_hash import checkpoint_hash

    arm = arm_of(config)
    settings = {
        "model": args.model,
        "checkpoint": checkpoint_hash(args.model, config),
        "prompts": hashlib.sha256(json.dumps(prompts).encode()).hexdigest(),
        "num_prompts": len(prompts),
        "num_samples": args.num_samples,
        "seed": args.seed,
        "dtype": args.dtype,
        "device": device.split(":")[0],
        **generate_options(args),
    }
    if args.negative_prompt is not None:
        settings["negative_prompt"] = args.negative_prompt
    if not arm.own_streams:
        settings["batch_size"] = fixed_batch_size(args, arm)  # the AR arm has one random stream a batch
    return settings


def command_line(args: argparse.Namespace) -> str:
    """The command that resumes this one."""
    words = ["arche-mdlm", "generate", args.model]
    parser = argparse.ArgumentParser()
    add_options(parser)
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        if not action.option_strings or value == action.default or action.dest in ("help", "overwrite"):
            continue
        for one in value if isinstance(value, list) else [value]:
            words += [action.option_strings[0]] + ([] if one is True else [str(one)])
    return shlex.join(words)
