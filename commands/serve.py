"""`arche-mdlm serve`: an HTTP server with OpenAI's endpoints."""

import argparse
import os
from pathlib import Path
from typing import Any

from arche_mdlm.training.command_line import Number, add_model, add_threads, add_weights, count

API_KEY = "ARCHE_MDLM_API_KEY"


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("serve", help="serve a checkpoint over HTTP with OpenAI's API")
    add_model(parser)
    add = parser.add_argument_group("server").add_argument
    add("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 for all addresses of this machine")
    add(
        "--port",
        type=count(0, 65535),
        default=8000,
        metavar="N",
        help="port to listen at; 0 selects a free port, shown in the log",
    )
    add(
        "--served_name",
        metavar="NAME",
        help="name of the model in requests (default: name of its folder or repository)",
    )
    add(
        "--api_key",
        metavar="KEY",
        help=f"key that clients must send (default: environment variable {API_KEY}, else none)",
    )
    add = parser.add_argument_group("limits").add_argument
    add("--max_tokens", type=count(), metavar="N", help="maximum tokens per text (default: the context)")
    add("--max_choices", type=count(), default=32, metavar="N", help="maximum texts per request")
    add(
        "--max_forwards", type=count(), default=4096, metavar="N", help="maximum forwards of a diffusion model per text"
    )
    add("--max_body_bytes", type=count(), default=2**20, metavar="N", help="maximum size of a request")
    add("--queue_length", type=count(), default=256, metavar="N", help="maximum waiting texts; further ones get a 429")
    add(
        "--request_timeout",
        type=Number(float, above=0, most=86400),
        default=300.0,
        metavar="SECONDS",
        help="maximum seconds per request, including waiting",
    )
    add(
        "--shutdown_timeout",
        type=Number(float, 0, 3600),
        default=30.0,
        metavar="SECONDS",
        help="seconds that requests have to finish after SIGINT or SIGTERM",
    )
    add = parser.add_argument_group("execution").add_argument
    add("--batch_size", type=count(words=("auto",)), default="auto", metavar="N", help="maximum texts per batch")
    add_weights(add)
    add_threads(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM."""
    from arche_mdlm.configuration.extras import require

    require("arche-mdlm serve", "fastapi", "uvicorn", "prometheus_client", "pydantic", "accelerate")
    import torch
    from transformers.utils import logging

    from arche_mdlm.configuration.devices import default_device
    from arche_mdlm.serving.served_model import Limits
    from arche_mdlm.serving.server import ServerSettings, serve
    from arche_mdlm.training.models.loading import load_arm
    from arche_mdlm.training.threads import choose_threads

    logging.disable_progress_bar()
    device = args.device or default_device()
    model, tokenizer = load_arm(args.model, getattr(torch, args.dtype))
    if device == "cpu":  # a wrong folder is told before the trial
        choose_threads(args.threads)
    name = args.served_name or (Path(args.model).resolve().name if Path(args.model).exists() else args.model)
    settings = ServerSettings(
        name=name, host=args.host, port=args.port, api_key=args.api_key or os.environ.get(API_KEY) or None,
        limits=Limits(args.max_tokens, args.max_choices, args.max_forwards), max_body_bytes=args.max_body_bytes,
        queue_length=args.queue_length, batch_size=args.batch_size, request_timeout=args.request_timeout,
        shutdown_timeout=args.shutdown_timeout,
    )  # fmt: skip
    return serve(model.to(device), tokenizer, settings)
