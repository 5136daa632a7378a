"""`arche-mdlm chat`: talk to a checkpoint of either arm in the terminal."""

import argparse
import sys
from contextlib import suppress
from typing import Any

from arche_mdlm.training.command_line import HOTTEST, SEED, Number, add_model, add_threads, add_weights, count

HELP = "/reset begins anew, /exit or Ctrl-D ends, Ctrl-C stops a reply"
_BOTH_ARMS = ("temperature", "top_p", "top_k", "repetition_penalty")
_DIFFUSION_ONLY = ("num_diffusion_steps", "sampler", "block_length")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("chat", help="chat with a checkpoint in the terminal")
    add_model(parser)
    add = parser.add_argument_group("text").add_argument
    add("--system", metavar="TEXT", help="system message, if the chat template supports one")
    add(
        "--max_new_tokens",
        type=count(),
        metavar="N",
        help="maximum tokens per reply (default: 128, or half of a short context)",
    )
    add(
        "--seed",
        type=SEED,
        default=0,
        help="random seed; a reply depends on the seed, its number and the conversation (default: 0)",
    )
    add(
        "--temperature",
        type=Number(float, 0, HOTTEST),
        help="0 takes the most probable tokens (default: from the checkpoint)",
    )
    add("--top_k", type=count(0), help="0 keeps all tokens (default: from the checkpoint)")
    add("--top_p", type=Number(float, above=0, most=1), help="(default: from the checkpoint)")
    add("--repetition_penalty", type=Number(float, above=0, most=1000), help="(default: from the checkpoint)")
    add = parser.add_argument_group("sampling, diffusion models only (default: from the checkpoint)").add_argument
    add("--num_diffusion_steps", type=count(), metavar="N")
    add("--sampler", metavar="NAME", help="as in arche-mdlm generate")
    add(
        "--block_length", type=count(), metavar="N", help="fill the canvas in blocks of N positions, from left to right"
    )
    add = parser.add_argument_group("execution").add_argument
    add_weights(add)
    add_threads(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Talk until the input ends."""
    import torch
    from transformers.utils import logging

    from arche_mdlm.configuration.devices import default_device
    from arche_mdlm.training.models.arms import arm_of
    from arche_mdlm.training.models.loading import load_arm, load_config
    from arche_mdlm.training.threads import choose_threads

    logging.disable_progress_bar()
    arm = arm_of(load_config(args.model))
    for name in _DIFFUSION_ONLY:
        if not arm.denoises and getattr(args, name) is not None:
            raise ValueError(f"--{name} is for diffusion models; {args.model} is autoregressive")
    place = args.device or default_device()
    if place == "cpu":
        choose_threads(args.threads)
    model, tokenizer = load_arm(args.model, getattr(torch, args.dtype))
    return _Chat(args, model.to(place).eval(), tokenizer).run()


class _Chat:
    """A conversation with a model."""

    def __init__(self, args: argparse.Namespace, model: Any, tokenizer: Any) -> None:
        from arche_mdlm.commands.conversation import Conversation
        from arche_mdlm.training.models.arms import arm_of

        context = model.config.max_position_embeddings
        self.model, self.tokenizer, self.arm, self.seed = model, tokenizer, arm_of(model), args.seed
        self.new_tokens = min(128, context // 2) if args.max_new_tokens is None else args.max_new_tokens
        if self.new_tokens >= context:
            raise ValueError(f"--max_new_tokens {self.new_tokens} must be less than the context of {context} tokens")
        self.conversation: Conversation = Conversation(tokenizer, context, args.system)
        given = {name: getattr(args, name) for name in (*_BOTH_ARMS, *_DIFFUSION_ONLY)}
        given = {name: value for name, value in given.items() if value is not None}
        if given.get("temperature") == 0:
            given = {"do_sample": False} | {name: value for name, value in given.items() if name != "temperature"}
        self.options = {"do_sample": True} | given | {"max_new_tokens": self.new_tokens}
        self.number = 0  # of the reply

    def run(self) -> int:
        """Read a line, write a reply, until the input ends."""
        how = (
            "by its chat template" if self.conversation.has_template else "no chat template: it goes on with your text"
        )
        _say(f"{self.arm.kind.partition(' ')[2]} model, {self.conversation.context} tokens of context; {how}. {HELP}.")
        while (line := self._read()) is not None:
            if line.strip() == "/exit":
                break
            if line.strip() == "/reset":
                self.conversation.reset()
                _say("begun anew")
            elif line.startswith("/"):
                _say(f"there is no command {line.strip()!r}. {HELP}.")
            elif line.strip():
                self._reply(line)
        return 0

    def _read(self) -> str | None:
        """The next line; None at the end of the input. Ctrl-C on a terminal gives an empty line."""
        if not sys.stdin.isatty():
            line = sys.stdin.readline()
            return line.rstrip("\r\n") if line else None
        with suppress(ImportError):
            import readline  # noqa: F401  (input() then edits lines, and remembers them)
        try:
            return input("> ")
        except EOFError:
            print()
            return None
        except KeyboardInterrupt:
            print()
            _say(HELP)
            return ""

    def _reply(self, line: str) -> None:
        """Write one reply, and keep both turns; a turn without a reply is left out."""
        import torch

        from arche_mdlm.commands.live_view import make_streamer
        from arche_mdlm.writing.stories import own_seed

        self.conversation.say(line)
        heard = _Heard(make_streamer(self.tokenizer, 1, self.arm.denoises, skip_prompt=True))
        stopped = False
        try:
            ids, left_out = self.conversation.prompt(self.new_tokens)
            if not self.arm.denoises and self.tokenizer.mask_token_id in ids:
                raise ValueError("your text contains a mask, but this model is autoregressive and cannot fill masks")
            if left_out:
                _say(
                    f"the oldest turns no longer fit the context of {self.conversation.context} tokens: they are left out"
                )
            input_ids = torch.tensor([ids], device=self.model.device)
            inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
            self.arm.generate(
                self.model, inputs, [own_seed(self.seed, self.number)], {**self.options, "streamer": heard}
            )
        except ValueError as error:
            self.conversation.answer("")
            _say(f"error: {' '.join(str(error).split())}")
            return
        except KeyboardInterrupt:
            stopped = True
            heard.end()
        self.number += 1
        text = heard.text(self.tokenizer)
        self.conversation.answer(text)
        if stopped:
            _say("stopped" if text else "stopped: this turn is left out")


class _Heard:
    """A streamer that also keeps what it is given behind the prompt."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.parts: list[Any] = []

    def put(self, value: Any) -> None:
        """Finished tokens; the prompt first."""
        self.parts.append(value.reshape(-1))
        self.inner.put(value)

    def text(self, tokenizer: Any) -> str:
        """What was written and finished."""
        ids = [token for part in self.parts[1:] for token in part.tolist()]
        return tokenizer.decode(ids, skip_special_tokens=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def _say(line: str) -> None:
    """Of the program, not of the model: on standard error."""
    print(line, file=sys.stderr, flush=True)
