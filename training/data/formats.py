"""What a row of data is: a text, a prompt and its answer, or a conversation."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from arche_mdlm.configuration.checks import FORMATS
from arche_mdlm.configuration.settings import DataSettings
from arche_mdlm.configuration.templates import parts_of


class Exchange(NamedTuple):
    """A prompt and its answer, which is learnt."""

    prompt: str
    answer: str
    where: str  # of the source, for messages
    rendered: bool = False  # by a chat template: special tokens in it are meant as such


class Conversation(NamedTuple):
    """Messages in the form of transformers: `role`, `content`, and whatever else a chat template reads."""

    messages: list[dict[str, Any]]
    where: str
    given: int = 0  # so many of the first ones are the prompt: none of them is learnt


Item = str | Exchange | Conversation


@dataclass(frozen=True)
class Format:
    """How a row is read.

    Args:
        kind: "text", "prompt", "messages", or "auto": by the columns that a source has.
        text, prompt, completion: columns, or templates of several.
        messages: a column.
    """

    kind: str = "text"
    text: str = "text"
    prompt: str = "prompt"
    completion: str = "completion"
    messages: str = "messages"

    @classmethod
    def of(cls, data: DataSettings) -> Format:
        """That of a preset's settings. Columns that are set say the kind; ValueError where they say several."""
        names = cls(
            data.format, data.template or data.text_column, data.prompt_column, data.completion_column, data.messages_column
        )  # fmt: skip
        if data.format != "auto":
            return names
        plain = cls()
        told = [
            kind for kind, own in _COLUMNS.items() if any(getattr(names, name) != getattr(plain, name) for name in own)
        ]
        if len(told) > 1:
            raise ValueError(
                f"data.format='auto' is ambiguous: columns are set for {' and '.join(told)}; set data.format to one of them"
            )
        return replace(names, kind=told[0]) if told else names

    @property
    def settings(self) -> list[str]:
        """Those that make a cache's key differ from that of plain texts in a column."""
        return [] if self.kind == "text" else [getattr(self, field.name) for field in fields(self)]

    def resolved(self, there: Collection[str], where: str) -> Format:
        """With the kind that the columns of a row or a table have.

        Raises:
            ValueError: where they allow several kinds, or none.
        """
        if self.kind == "auto":
            fit = [kind for kind in _COLUMNS if all(_is_there(name, there) for name in self.columns(kind))]
            if len(fit) > 1:
                columns = ", ".join(name for kind in fit for name in self.columns(kind))
                raise ValueError(f"{where}: the columns {columns} are all there: set data.format to {' or '.join(fit)}")
            return replace(self, kind=fit[0] if fit else self._nearest(there)).resolved(there, where)
        for setting, name in self._wanted(self.kind):
            if not _is_there(name, there):
                raise ValueError(no_column(name, list(there), where, setting))
        return self

    def _nearest(self, there: Collection[str]) -> str:
        """The kind whose missing column is named in an error: prompts without answers do not count as texts."""
        half = any(_is_there(name, there) for name in self.columns("prompt"))
        return "prompt" if half else "text"

    def columns(self, kind: str | None = None) -> list[str]:
        """Names of the columns that are read."""
        return [name for _, name in self._wanted(kind or self.kind)]

    def _wanted(self, kind: str) -> Iterator[tuple[str, str]]:
        for name in _COLUMNS[kind]:
            for _, column in parts_of(_SETTINGS[name], getattr(self, name)):
                if column is not None:
                    yield _SETTINGS[name], column

    def read(self, row: object, where: str) -> Item | None:
        """The item of a row, None where one of its columns is null; ValueError, naming `where`, for what is missing or no text."""
        if self.kind == "text":
            return self._text("text", row, where)
        if self.kind == "messages":
            messages = field_of(row, self.messages, where, _SETTINGS["messages"])
            return None if messages is None else Conversation(_messages(messages, where, self.messages), where)
        if (conversation := self._prompt_of_messages(row, where)) is not None:
            return conversation
        prompt, answer = (self._text(name, row, where) for name in _COLUMNS["prompt"])
        return None if prompt is None or answer is None else Exchange(prompt, answer, where)

    def _prompt_of_messages(self, row: object, where: str) -> Conversation | None:
        """Where the prompt is a list of messages, and the completion too, as TRL has them; None where the prompt is a text."""
        if "{" in self.prompt + self.completion:
            return None
        prompt, answer = (field_of(row, getattr(self, name), where, _SETTINGS[name]) for name in _COLUMNS["prompt"])
        if not isinstance(prompt, list) and not isinstance(answer, list):
            return None
        if not isinstance(prompt, list) or not isinstance(answer, list):
            if prompt is None or answer is None:
                return None
            raise ValueError(
                f"{where}: {self.prompt!r} is a {type(prompt).__name__} and {self.completion!r} a {type(answer).__name__}: "
                "both must be texts, or both lists of messages"
            )
        both = [_messages(part, where, name) for part, name in ((prompt, self.prompt), (answer, self.completion))]
        return Conversation(both[0] + both[1], where, len(prompt))

    def _text(self, name: str, row: object, where: str) -> str | None:
        setting, value = _SETTINGS[name], getattr(self, name)
        if "{" not in value:
            return text_of(row, value, where, setting)
        pieces = []
        for literal, column in parts_of(setting, value):
            pieces.append(literal)
            if column is not None:
                found = field_of(row, column, where, setting)
                if found is None:
                    return None
                number = isinstance(found, (int, float)) and not isinstance(found, bool)
                pieces.append(str(found) if number else _checked(found, column, where))
        return "".join(pieces)


_COLUMNS = {"text": ("text",), "prompt": ("prompt", "completion"), "messages": ("messages",)}
_SETTINGS = {"text": "text_column", "prompt": "data.prompt_column", "completion": "data.completion_column",
             "messages": "data.messages_column"}  # fmt: skip
assert set(FORMATS) == {"auto", *_COLUMNS}


def plain_text(item: Item) -> str:
    """All that is written in an item, as training a tokenizer reads it."""
    if isinstance(item, Conversation):
        return "\n".join(message["content"] for message in item.messages)
    return item if isinstance(item, str) else item.prompt + item.answer


def identity(item: Item) -> str:
    """Equal for equal items."""
    if isinstance(item, Conversation):
        return json.dumps([item.messages, item.given], sort_keys=True, default=str)
    return item.strip() if isinstance(item, str) else f"{item.prompt}\0{item.answer}"


def _is_there(column: str, there: Collection[str]) -> bool:
    return column in there or column.split(".")[0] in there


def _messages(value: object, where: str, column: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where}: {column} must be a list of objects with role and content, not {value!r:.60}")
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValueError(f"{where}: message {number} must be an object with a role, not {message!r:.60}")
        if not isinstance(message.get("content"), str):
            raise ValueError(
                f"{where}: the content of message {number} must be a text, not {message.get('content')!r:.60}"
            )
    # A table gives every message the columns of all: those that a message does not have are null.
    return [{name: part for name, part in message.items() if part is not None} for message in value]


def text_of(row: object, column: str, where: str, setting: str = "text_column") -> str | None:
    """The field `column` of a row, None for a null; `story.text` is the field `text` of the object `story`.

    Raises:
        ValueError: naming `where`, for a field that is missing or not a text.
    """
    value = field_of(row, column, where, setting)
    return None if value is None else _checked(value, column, where)


def field_of(row: object, column: str, where: str, setting: str) -> object:
    """As `text_of`, of any type."""
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected an object with the column {column!r}, got {type(row).__name__}")
    value: object = row
    for name in [column] if column in row else column.split("."):
        if value is None:  # a null object counts as a null text
            return None
        if not isinstance(value, dict) or name not in value:
            raise ValueError(no_column(column, list(_paths(row)), where, setting))
        value = value[name]
    return value


def _paths(row: dict, prefix: str = "") -> Iterator[str]:
    """The fields of a row, those of objects by dotted path."""
    for key, value in row.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _checked(value: object, column: str, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: column {column!r} holds {type(value).__name__} ({value!r:.40}), not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair, "\ud800"
        raise ValueError(f"{where}: column {column!r} is not UTF-8 text: {error.reason} at {error.start}") from None
    return value


def no_column(column: str, there: list[str], where: str, setting: str = "text_column") -> str:
    """The error message for a missing field."""
    return f"{where}: no column {setting}={column!r}; the columns there are: {', '.join(map(str, there))}"
