"""`arche-mdlm convert`: a diffusion model of others (LLaDA, Dream, dllm's a2d) becomes one of ours; an autoregressive checkpoint becomes the
start of a diffusion model, or a masked diffusion model that of block diffusion."""

import argparse
from pathlib import Path
from typing import Any

from arche_mdlm.family_parts_mdlm import FAMILY_PARTS
from arche_mdlm.training.command_line import HelpFormatter, checkpoint, count

# Families that weights of others can start; those of Eso-LM see each other in the order of writing.
_FAMILIES = tuple(name for name, parts in FAMILY_PARTS.items() if parts.order in ("whole", "blocks"))
_ROWS = ("model.embed_tokens.weight", "lm_head.weight")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "convert",
        help="convert LLaDA, Dream or a2d models; or initialise a diffusion model from an AR checkpoint or an MDLM",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add(
        "source",
        type=checkpoint,
        help="checkpoint folder or repository: a LLaDA, Dream or dllm a2d model; an AR model (Llama, Mistral, Qwen2, Qwen3); or, "
        "with --diffusion other than masked, an MDLM",
    )
    add("destination", type=Path, help="new folder")
    add(
        "--diffusion",
        choices=_FAMILIES,
        default="masked",
        help="family of the new model",
    )
    add("--block_length", type=count(), help="with --diffusion block or uniform_block: positions per block")
    add(
        "--shift",
        action="store_true",
        help="each position still predicts the next token (prediction_offset=1); with --diffusion masked or uniform",
    )
    add("--noise_schedule", help="linear or cosine (default: that of the MDLM, or linear for an AR model)")
    add("--context_length", type=count(), help="context length in tokens (default: that of the source)")
    add("--revision", help="branch, tag or commit of a Hub repository (default: the main branch)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert and print a summary; ValueError for a source that cannot be converted."""
    from transformers.utils import logging

    from arche_mdlm.training.adopting.families import family_of_config
    from arche_mdlm.training.adopting.source import CheckpointFiles
    from arche_mdlm.training.files.own_files import check_new_folder
    from arche_mdlm.training.models.ar_trunk import check_type

    logging.disable_progress_bar()
    check_new_folder(args.destination)
    files = CheckpointFiles(args.source, args.revision)
    values = files.json("config.json")
    if family_of_config(values) is not None:
        return _run_adoption(args, files, values)
    if values.get("model_type") != "mdlm":
        check_type(str(args.source), values.get("model_type"))
    return _run_start(args, files)


def _run_adoption(args: argparse.Namespace, files: Any, values: dict[str, Any]) -> int:
    """A diffusion model of others."""
    from arche_mdlm.training.adopting.adopt import adopt

    unused = {"--diffusion": args.diffusion != "masked", "--block_length": args.block_length is not None, "--shift": args.shift,
              "--noise_schedule": args.noise_schedule is not None}  # fmt: skip
    if wrong := [option for option, given in unused.items() if given]:
        raise ValueError(
            f"{', '.join(wrong)}: {args.source} is already a diffusion model and is converted as it is. To change its family, "
            "convert the new folder again"
        )
    done = adopt(files, args.destination, args.context_length, values)
    print(
        f"{args.destination}: the {done.name} model {args.source} with its weights ({done.parameters:,} parameters, "
        f"{str(done.dtype).removeprefix('torch.')}, {done.shards} files)."
    )
    print(f"Texts end at {', '.join(done.ends)}; the default sampler of generate is sampler={done.sampler!r}.")
    print("Generate text with: arche-mdlm generate", args.destination, '--prompt "..."')
    return 0


def _run_start(args: argparse.Namespace, files: Any) -> int:
    """A model that is to be trained."""
    from arche_mdlm.training.adopting.card import write_start_card
    from arche_mdlm.training.files.checkpointing import write_folder_atomically, write_json_atomically
    from arche_mdlm.training.models.cost import LOG, total_cost
    from arche_mdlm.training.models.loading import save_arm

    model, tokenizer, added = convert(
        args.source,
        args.noise_schedule,
        args.context_length,
        args.diffusion,
        args.block_length,
        args.shift,
        args.revision,
    )
    cost = total_cost(args.source)

    def write(folder: Path) -> None:
        save_arm(model, tokenizer, folder)
        write_start_card(folder, files, args.destination.name, args.diffusion)
        if cost is not None:  # what its weights have cost goes with them
            write_json_atomically(folder / LOG, {"run": {"before": cost}, "history": []})

    write_folder_atomically(args.destination, write)
    count = sum(parameter.numel() for parameter in model.parameters())
    new = f", new tokens {', '.join(added)}" if added else ""
    print(
        f"{args.destination}: a {args.diffusion} diffusion model with the weights of {args.source} ({count:,} parameters{new})."
    )
    print("It has not learned its new task yet; train it with: arche-mdlm train --init_from", args.destination)
    if args.diffusion == "masked":
        print("--set training.attention_annealing_steps=N opens its attention over the first N steps.")
    return 0


def convert(
    source: str | Path,
    noise_schedule: str | None = None,
    context_length: int | None = None,
    diffusion: str = "masked",
    block_length: int | None = None,
    shift: bool = False,
    revision: str | None = None,
) -> tuple[Any, Any, list[str]]:
    """(model, tokenizer, tokens added) of an MDLM with the weights and the dtype of a Llama-type AR checkpoint; of another family than
    masked, also with those of a masked diffusion model.

    A missing mask or pad token is added to the tokenizer, and its row (a new one where the embedding has none to spare)
    holds the mean of the rows of the old tokens. All other weights are equal to the source's; the embedding of noise levels that uniform
    noise needs adds nothing at first.

    Args:
        shift: with diffusion of the whole canvas, the output at a position predicts the next one, as it did in the source (`prediction_offset` 1).
        revision: branch, tag or commit of a repository of the Hub.

    Raises:
        ValueError: when `source` is not a complete checkpoint, not of the Llama type, quantised, without BOS or EOS, or when
            `noise_schedule`, `context_length`, `block_length` or `shift` does not fit.
    """
    from arche_mdlm import MDLMConfig
    from arche_mdlm.schedule_mdlm import get_schedule
    from arche_mdlm.training.models.ar_trunk import trunk_fields
    from arche_mdlm.training.models.loading import load_arm, set_generation_defaults

    if noise_schedule is not None:
        get_schedule(noise_schedule)
    if diffusion not in _FAMILIES:
        raise ValueError(f"diffusion={diffusion!r} is not one of {', '.join(_FAMILIES)}")
    noise, order = FAMILY_PARTS[diffusion]
    if (block_length is not None) != (order == "blocks"):
        raise ValueError(
            f"block_length={block_length} with diffusion={diffusion!r}: only 'block' and 'uniform_block' have it, and they need it"
        )
    if shift and order == "blocks":
        raise ValueError(
            f"shift=True with diffusion={diffusion!r}: the position before a block belongs to another block. Use shift with 'masked' "
            "or 'uniform'"
        )
    _check_type(source, diffusion, context_length, revision)
    ar_model, tokenizer = load_arm(source, dtype="auto", revision=revision)
    longest = ar_model.config.max_position_embeddings
    context = longest if context_length is None else context_length
    if not 0 < context <= longest:
        raise ValueError(f"context_length={context} is not in 1 to {longest}, the context of {str(source)!r}")
    num_old = min(len(tokenizer), ar_model.config.vocab_size)
    added = _complete_tokenizer(tokenizer, ar_model.config)
    tokenizer.model_max_length = context

    values = trunk_fields(ar_model.config)
    values |= {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = MDLMConfig(
        **values
        | {
            "vocab_size": max(ar_model.config.vocab_size, len(tokenizer)),
            "max_position_embeddings": context,
            "mask_token_id": tokenizer.mask_token_id,
            "noise_schedule": noise_schedule or values.get("noise_schedule", "linear"),
            "diffusion": diffusion,
            "attention_block_length": block_length,
            "prediction_offset": int(shift),
        }
        | ({"time_conditioning": "log_snr"} if noise == "uniform" else {})
    )
    model = _without_weights(config, ar_model.dtype)
    # A token the vocabulary had under another role keeps its row.
    new_ids = [index for index in tokenizer.convert_tokens_to_ids(added) if index >= num_old]
    own = model.state_dict()
    state = {name: value for name, value in own.items() if "time_embedding." in name} | ar_model.state_dict()
    for name in _ROWS:
        state[name] = _with_rows(state[name], len(own[name]), new_ids, num_old)
    problems = model.load_state_dict(state, strict=False, assign=True)
    if problems.missing_keys or problems.unexpected_keys:
        raise ValueError(
            f"the weights of {str(source)!r} do not fit: missing {', '.join(problems.missing_keys) or 'none'}; "
            f"unexpected {', '.join(problems.unexpected_keys) or 'none'}"
        )
    model.tie_weights()
    set_generation_defaults(model, tokenizer, context)
    return model.eval(), tokenizer, added


def _without_weights(config: Any, dtype: Any) -> Any:
    """An MDLM whose weights are to be assigned, so that they are in memory once; of an embedding of noise levels, what is added is 0."""
    import torch

    from arche_mdlm import MDLMForMaskedDiffusion

    with torch.device("meta"):
        model = MDLMForMaskedDiffusion(config).to(dtype)
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config=config)  # its buffers are not in the weights
    if config.time_conditioning == "log_snr":
        embedding = model.model.time_embedding.to_empty(device="cpu")
        torch.nn.init.normal_(embedding.inner.weight, std=config.initializer_range)
        for parameter in (embedding.inner.bias, *embedding.outer.parameters()):
            torch.nn.init.zeros_(parameter)
    return model


def _check_type(source: str | Path, diffusion: str, context_length: int | None, revision: str | None) -> None:
    """ValueError for a model that cannot become one of the family; `load_arm` reports a source that is not a checkpoint."""
    from transformers import AutoConfig

    from arche_mdlm.training.models.ar_trunk import check_trunk

    try:
        config = AutoConfig.from_pretrained(str(source), revision=revision or "main")
    except (OSError, ValueError):
        return
    if config.model_type == "mdlm" and diffusion == "masked":
        raise ValueError(f"{str(source)!r} is already a masked diffusion model")
    if config.model_type == "mdlm" and (config.diffusion, config.time_conditioning) != ("masked", "none"):
        raise ValueError(
            f"{str(source)!r} has diffusion={config.diffusion!r} and time_conditioning={config.time_conditioning!r}; "
            "only diffusion='masked' with time_conditioning='none' can be converted to another family"
        )
    if config.model_type == "mdlm" and getattr(config, "prediction_offset", 0):
        raise ValueError(
            f"{str(source)!r} has prediction_offset=1; only diffusion models with prediction_offset=0 can be converted to another family"
        )
    if config.model_type != "mdlm":
        check_trunk(str(source), config, context_length)
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"{str(source)!r} is quantised; convert the unquantised checkpoint")


def _complete_tokenizer(tokenizer: Any, config: Any) -> list[str]:
    """Add a mask and a pad token if missing, in place; returns the added tokens. A tokenizer without BOS, as Qwen's, gets the one that
    the source's `config` names."""
    from tokenizers import AddedToken

    from arche_mdlm.training.data.tokenizers_io import MASK, PAD, check_tokenizer

    added = []
    if tokenizer.bos_token_id is None and isinstance(config.bos_token_id, int):
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(config.bos_token_id)
    if tokenizer.mask_token_id is None:
        # lstrip: the space before a mask belongs to the word that will stand there.
        tokenizer.add_special_tokens({"mask_token": AddedToken(MASK, lstrip=True, special=True, normalized=False)})
        added.append(MASK)
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": AddedToken(PAD, special=True, normalized=False)})
        added.append(PAD)
    tokenizer.padding_side = "left"
    check_tokenizer(tokenizer)
    return added


def _with_rows(weight: Any, num_rows: int, new_ids: list[int], num_old: int) -> Any:
    """`weight` (V, d) with `num_rows` rows; those of `new_ids` hold the mean of the first `num_old`."""
    import torch

    extended = weight.new_zeros(num_rows, weight.shape[1])
    extended[: len(weight)] = weight
    mean = weight[:num_old].float().mean(0).to(weight.dtype)
    extended[torch.tensor([*new_ids, *range(len(weight), num_rows)], dtype=torch.long)] = mean
    return extended
