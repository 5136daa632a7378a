"""What a client gets: OpenAI's objects, whole or in parts."""

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

from arche_mdlm.serving.errors import ApiError
from arche_mdlm.serving.row import Row


def event(value: dict[str, Any] | str) -> str:
    """One server-sent event."""
    return f"data: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}\n\n"


def usage_of(rows: Sequence[Row], choices: int) -> dict[str, int]:
    """OpenAI's `usage`: a prompt counts once, however many texts (`choices`) it has."""
    prompts = sum(len(row.prompt) for row in rows[::choices])
    written = sum(row.num_tokens for row in rows)
    return {"prompt_tokens": prompts, "completion_tokens": written, "total_tokens": prompts + written}


class Answer:
    """The answer to one request, of `rows` in the order of the choices.

    Args:
        chat: whether it is a chat completion.
        choices: texts a prompt.
        parts: whether it is streamed.
    """

    def __init__(self, rows: Sequence[Row], model: str, chat: bool, choices: int, parts: bool) -> None:
        self.rows, self.chat, self.choices = rows, chat, choices
        name = ("chat.completion.chunk" if parts else "chat.completion") if chat else "text_completion"
        self.head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}", "object": name, "created": int(time.time()), "model": model,
        }  # fmt: skip
        self.sent = [0] * len(rows)
        self.ended = [False] * len(rows)
        self.shown = [-1] * len(rows)  # step of the last draft

    def whole(self) -> dict[str, Any]:
        """The object of an answer that is not streamed."""
        found = [
            self._choice(i, {"message": {"role": "assistant", "content": row.text}} if self.chat else {"text": row.text}, row.finish_reason)
            for i, row in enumerate(self.rows)
        ]  # fmt: skip
        return {**self.head, "choices": found, "usage": usage_of(self.rows, self.choices)}

    def first(self) -> Iterator[dict[str, Any]]:
        """What a stream begins with: the role, in a chat."""
        if self.chat:
            for i in range(len(self.rows)):
                yield self._chunk(i, {"delta": {"role": "assistant", "content": ""}})

    def news(self) -> Iterator[dict[str, Any]]:
        """What is new since the last call; ApiError of a row that has failed."""
        for i, row in enumerate(self.rows):
            if self.ended[i]:
                continue
            if row.error is not None:
                raise row.error
            reason, draft = row.finish_reason, row.draft  # before the text, which is set first
            if draft is not None and draft.step > self.shown[i]:
                self.shown[i] = draft.step
                about = {"text": draft.text, "masked": draft.masked, "step": draft.step}
                yield self._chunk(i, {**self._text(""), "draft": about})
            text = row.text
            if len(text) > self.sent[i]:
                yield self._chunk(i, self._text(text[self.sent[i] :]))
                self.sent[i] = len(text)
            if reason is not None:
                self.ended[i] = True
                yield self._chunk(i, {"delta": {}} if self.chat else {"text": ""}, reason)

    def usage(self) -> dict[str, Any]:
        """The part of a stream that has the usage alone."""
        return {**self.head, "choices": [], "usage": usage_of(self.rows, self.choices)}

    def failed(self) -> ApiError | None:
        """The error of the first row that has failed."""
        return next((row.error for row in self.rows if row.error is not None), None)

    def _text(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}} if self.chat else {"text": text}

    def _chunk(self, index: int, part: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {**self.head, "choices": [self._choice(index, part, reason)]}

    def _choice(self, index: int, part: dict[str, Any], reason: str | None) -> dict[str, Any]:
        return {"index": index, **part, "logprobs": None, "finish_reason": reason}
