"""What lm-evaluation-harness asks, as token ids: pairs of a context and a continuation, windows of a text, and options of generation."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from arche_mdlm.generation_config_mdlm import OWN_FIELDS

LENGTHS = (
    "max_gen_toks",
    "max_new_tokens",
    "max_tokens",
    "max_completion_tokens",
)  # names of one thing, the first given counts


@dataclass
class Encoder:
    """Texts as token ids.

    Args:
        tokenizer: of the model.
        max_length: most tokens of a context and its continuation.
        window_context: tokens of context that a window of a long text has at least.
    """

    tokenizer: Any
    max_length: int
    window_context: int = 1

    def __post_init__(self) -> None:
        self.known: dict[str, list[int]] = {}  # contexts, which the answers of a question share
        self.num_cut = 0

    @property
    def prefix(self) -> int:
        """What stands before a text without a context: BOS, or EOS."""
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if bos is None and eos is None:
            raise ValueError("the tokenizer has neither bos_token nor eos_token: an empty context needs one of them")
        return eos if bos is None else bos

    def encode(self, text: str) -> list[int]:
        """As the tokenizer does, without a second BOS where the text has one (chat templates)."""
        bos = self.tokenizer.bos_token
        own = {"add_special_tokens": False} if bos and text.startswith(bos) else {}
        return self.tokenizer(text, verbose=False, **own)["input_ids"]

    def context(self, text: str) -> list[int]:
        if text not in self.known:
            self.known[text] = (self.encode(text) if text else []) or [self.prefix]
        return self.known[text]

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """A context, cut on the left where both do not fit, and its continuation; spaces between them belong to the latter.

        ValueError for an empty continuation, or one that does not fit.
        """
        cut = len(context.rstrip())
        context, continuation = context[:cut], context[cut:] + continuation
        given = self.context(context)
        if context:
            wanted = self.encode(context + continuation)[len(given) :]
        else:
            wanted = self.tokenizer(continuation, add_special_tokens=False, verbose=False)["input_ids"]
        if not wanted:
            raise ValueError(f"the continuation {continuation!r} of the context {_end(context)!r} has no token")
        if len(wanted) >= self.max_length:
            raise ValueError(
                f"a continuation has {len(wanted)} tokens, but with a token before it only {self.max_length - 1} fit "
                f"(max_length={self.max_length}): {_end(continuation)!r}"
            )
        return self.fit(given, self.max_length - len(wanted)), wanted

    def fit(self, ids: list[int], most: int) -> list[int]:
        """The last `most` of the ids, a BOS in front kept."""
        if len(ids) <= most:
            return ids
        self.num_cut += 1
        keeps = most > 1 and ids[0] == self.tokenizer.bos_token_id
        return [*ids[:1], *ids[len(ids) - most + 1 :]] if keeps else ids[len(ids) - most :]

    def windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        """Contexts and continuations that score each token of a text once. All but the first have at least `window_context` tokens of
        context, the last one as many as fit."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        found = get_rolling_token_windows(ids, self.prefix, self.max_length - 1, self.window_context)
        return [make_disjoint_window(window) for window in found]


@dataclass(frozen=True)
class Writing:
    """Options of one request of generation."""

    stops: tuple[str, ...]
    max_new_tokens: int
    options: tuple[tuple[str, Any], ...]  # of `generate`

    @classmethod
    def of(cls, asked: dict[str, Any], max_gen_toks: int) -> "Writing":
        """From a task's generation_kwargs. Without do_sample, a temperature above 0 samples."""
        asked = dict(asked)
        until = asked.pop("until", None) or []
        stops = tuple(dict.fromkeys(one for one in ([until] if isinstance(until, str) else until) if one))
        lengths = [int(value) for name in LENGTHS if (value := asked.pop(name, None)) is not None]
        temperature, do_sample = asked.pop("temperature", None), asked.pop("do_sample", None)
        hot = temperature is not None and float(temperature) > 0
        asked["do_sample"] = hot if do_sample is None else bool(do_sample) and (hot or temperature is None)
        if asked["do_sample"] and hot:
            asked["temperature"] = float(temperature)
        length = lengths[0] if lengths else max_gen_toks
        if length < 1:
            raise ValueError(f"max_gen_toks={length} must be at least 1")
        return cls(stops, length, tuple(sorted((key, _hashable(value)) for key, value in asked.items())))

    def cut(self, text: str) -> str:
        """The text before its first stop string."""
        return text[: min((at for stop in self.stops if (at := text.find(stop)) >= 0), default=len(text))]


def check_options(options: dict[str, Any], known: Sequence[str], diffuses: bool) -> None:
    """ValueError for model_args that do not exist, or are for the other kind of model."""
    for name in options:
        if name in OWN_FIELDS and not diffuses:
            raise ValueError(f"model_args {name}={options[name]!r} is for diffusion models; this one is autoregressive")
        if name not in OWN_FIELDS:
            near = difflib.get_close_matches(name, [*known, *OWN_FIELDS], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"model_args has {name}={options[name]!r}, which is not an option of arche_mdlm{hint} Known: {', '.join([*known, *OWN_FIELDS])}. "
                "Options of a task's generation, such as temperature and max_gen_toks, go into --gen_kwargs"
            )


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _end(text: str) -> str:
    return text if len(text) <= 60 else "..." + text[-57:]
