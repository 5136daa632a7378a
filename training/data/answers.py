"""Prompts with answers to training rows: BOS prompt answer EOS, of which the answer and its EOS are learnt.

Messages become one row for each message of the assistant: all before it is the prompt. A diffusion model sees the whole row, so an
answer that is learnt must not stand before questions that came after it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
from jinja2 import TemplateError
from tokenizers import Tokenizer
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from arche_mdlm.training.data.encoding import Encoder, in_order
from arche_mdlm.training.data.formats import Conversation, Exchange, Item

_ROLE = "assistant"


class AnswerEncoder:
    """Exchanges to (ids, number of given ones).

    Args:
        tokenizer: whose chat template messages are written in.
        encoder: of the layout `rows`, made from the tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, encoder: Encoder) -> None:
        self.tokenizer, self.plain = tokenizer, encoder.backend
        self.bos, self.eos = encoder.bos, encoder.eos
        self.rendered = Tokenizer.from_str(encoder.backend.to_str())
        self.rendered.encode_special_tokens = False  # a template writes special tokens, and means them
        identity = json.dumps([encoder.sha256, tokenizer.chat_template], sort_keys=True)
        self.sha256 = hashlib.sha256(identity.encode()).hexdigest()

    def __call__(self, exchanges: list[Exchange]) -> list[tuple[np.ndarray, int]]:
        return [self._encode(exchange) for exchange in exchanges]

    def _encode(self, exchange: Exchange) -> tuple[np.ndarray, int]:
        """Prompt and answer are tokenised apart, as a prompt is when the model is asked."""
        backend = self.rendered if exchange.rendered else self.plain
        prompt, answer = (backend.encode(text, add_special_tokens=False).ids for text in exchange[:2])
        if prompt[:1] != [self.bos]:
            prompt = [self.bos, *prompt]
        return np.array([*prompt, *answer, self.eos], dtype=np.int32), len(prompt)

    def exchanges(self, item: Item) -> Iterator[Exchange]:
        """An exchange as it is, or those of a conversation; ValueError, naming the place, for what has no answer."""
        if isinstance(item, Exchange):
            if not item.answer.strip():
                raise ValueError(f"{item.where}: the answer is empty; leave such rows out of the data")
            yield Exchange(item.prompt.lstrip(), item.answer.rstrip(), item.where)
        elif isinstance(item, Conversation):
            yield from self._of_conversation(item)
        else:
            raise ValueError("one of the sources has texts and another one prompts or messages: they cannot be mixed")

    def _of_conversation(self, item: Conversation) -> Iterator[Exchange]:
        self._check(item)
        for number, message in enumerate(item.messages):
            if message["role"] != _ROLE or number < item.given:
                continue
            where = f"{item.where}, message {number + 1}"
            prompt = self._render(item.messages[:number], where, add_generation_prompt=True)
            whole = self._render(item.messages[: number + 1], where)
            if not whole.startswith(prompt):
                raise ValueError(
                    f"{where}: the chat template formats the prompt of an answer differently from the same part of the conversation "
                    f"({prompt[-40:]!r}), so the answer cannot be located"
                )
            # A template may end an answer itself, and write more behind it: what comes after the EOS are pads.
            yield Exchange(prompt, whole[len(prompt) :].partition(self.tokenizer.eos_token)[0], where, True)

    def _check(self, item: Conversation) -> None:
        if self.tokenizer.chat_template is None:
            raise ValueError(
                f"{item.where}: messages need a chat template, and the tokenizer {self.tokenizer.name_or_path!r} has none: give one as a "
                "Jinja file by data.chat_template"
            )
        if item.messages[0]["role"] == _ROLE:
            raise ValueError(f"{item.where}: the messages begin with the assistant: there is no prompt")
        if not any(message["role"] == _ROLE for message in item.messages[item.given :]):
            whose = "the completion has " if item.given else ""
            raise ValueError(f"{item.where}: {whose}no assistant message, so there is nothing to learn")
        for number, message in enumerate(item.messages, 1):
            where = f"{item.where}, message {number}"
            if message["role"] == _ROLE and not message["content"].strip():
                raise ValueError(f"{where}: the answer is empty; leave such rows out of the data")
            for token in self.tokenizer.all_special_tokens:
                if token in message["content"]:
                    raise ValueError(
                        f"{where}: the content holds {token!r}, which is a special token and would be tokenised as one"
                    )

    def _render(self, messages: list[dict[str, Any]], where: str, **options: Any) -> str:
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, **options))
        except (TemplateError, TypeError, ValueError) as error:
            raise ValueError(f"{where}: the chat template fails: {' '.join(str(error).split())}") from error


class AnswerBuild:
    """One pass over prompts with answers, as `preparing.Build` is over texts."""

    features = datasets.Features(
        {
            "input_ids": datasets.List(datasets.Value("int32")),
            "num_bytes": datasets.Value("int32"),  # of the answer
            "num_given": datasets.Value("int32"),  # tokens of BOS and prompt
        }
    )
    layout = "rows"

    def __init__(
        self, stories: Any, encoder: AnswerEncoder, context_length: int, max_tokens: int | None, drop_long: bool
    ) -> None:
        self.stories, self.encode = stories, encoder
        self.context_length, self.max_tokens, self.drop_long = context_length, max_tokens, drop_long
        names = ("rows", "stories", "left_out", "chunked", "short_out", "null", "tokens", "tail_tokens", "bytes")
        self.counts = dict.fromkeys(names, 0)
        self.sha256 = hashlib.sha256()

    def rows(self, num_workers: int, progress: bool, batch_size: int = 512) -> Iterator[dict]:
        encoded = in_order(self.encode, self._exchanges(), num_workers, batch_size)
        for exchange, (ids, given) in tqdm(encoded, desc="tokenising", unit=" answers", disable=not progress):
            if len(ids) > self.context_length:
                if not self.drop_long:
                    raise ValueError(self._too_long(exchange.where, given, len(ids)))
                self.counts["left_out"] += 1
                continue
            if self.max_tokens is not None and self.counts["tokens"] + len(ids) > self.max_tokens:
                break
            num_bytes = len(exchange.answer.encode())
            self.sha256.update(f"{exchange.prompt}\0{exchange.answer}\0".encode())
            for name, count in (("rows", 1), ("stories", 1), ("tokens", len(ids)), ("bytes", num_bytes)):
                self.counts[name] += count
            yield {"input_ids": ids, "num_bytes": num_bytes, "num_given": given}
        if not self.counts["rows"]:
            raise ValueError(self._nothing_left())

    def _exchanges(self) -> Iterator[Exchange]:
        for item in self.stories.items():
            if item is None:
                self.counts["null"] += 1
            else:
                yield from self.encode.exchanges(item)

    def _too_long(self, where: str, given: int, total: int) -> str:
        context, answer = self.context_length, total - given
        if given >= context:
            why = f"the prompt has {given} tokens, which fill the context of {context}: there is no room for an answer"
        elif answer >= context:
            why = f"the answer has {answer} tokens, and the context {context}"
        else:
            why = f"prompt and answer have {given} and {answer} tokens, and the context {context}"
        return f"{where}: {why}; give a larger data.context_length, or data.long_answers=drop to leave such rows out"

    def _nothing_left(self) -> str:
        counts, source = self.counts, f"source={self.stories.name!r}, split={self.stories.split!r}"
        found = [f"{counts['left_out']:,} are longer than context_length={self.context_length} tokens"] * bool(
            counts["left_out"]
        )
        found += [f"{counts['null']:,} have a null"] * bool(counts["null"])
        if not found and self.max_tokens is not None:
            return f"{source}: no row left; its first one has more than max_tokens={self.max_tokens} tokens"
        return f"{source}: no row left" + (
            f"; of its prompts with answers {', '.join(found)}" if found else ": it is empty"
        )
