"""One text being written: what is asked for, and how far it is."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from arche_mdlm.serving.errors import ApiError

_CONTEXT = 6  # tokens before a text that its first tokens are decoded with: spaces and letters may depend on them


@dataclass(frozen=True)
class Draft:
    """The whole canvas of a row after a step."""

    text: str  # a mask as one block character
    masked: int  # positions that hold a mask
    step: int  # 0 is the canvas before the first step


@dataclass(eq=False)
class Row:
    """One text. A thread of the engine writes into it, and `listener` is called there; any other thread may read it.

    Args:
        tokenizer: of the model.
        prompt: token ids.
        seed: of the row's random stream.
        options: arguments of `generate`, which rows of a batch share, as JSON.
        max_new_tokens: behind the prompt.
        eos_token_ids: tokens that end the text.
        stop: strings that end the text, and are not part of it.
        mask_token_id: of a prompt's gaps, which are filled and become part of the text; None without gaps.
        head: what stands in front of the text (`echo`).
        wants_drafts: whether `draft` is to be kept.
        listener: called after each change.
    """

    tokenizer: Any
    prompt: list[int]
    seed: int
    options: str
    max_new_tokens: int
    eos_token_ids: tuple[int, ...]
    stop: tuple[str, ...] = ()
    mask_token_id: int | None = None
    head: str = ""
    wants_drafts: bool = False
    listener: Callable[[], None] = lambda: None
    text: str = ""  # finished, and sure not to be part of a stop string: it only grows
    draft: Draft | None = None
    finish_reason: str | None = None
    error: ApiError | None = None
    num_tokens: int = 0  # written, an EOS and filled gaps counted
    cancelled: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gaps = [i for i, token in enumerate(self.prompt) if token == self.mask_token_id]
        given = [i for i, token in enumerate(self.prompt) if token != self.mask_token_id]
        # An EOS may end the text from here on: behind the last given token.
        self._end_from = given[-1] + 1 if given else 0
        self._start = 0 if self.gaps else len(self.prompt)
        self._ids = self.prompt[max(0, self._start - _CONTEXT) : self._start]
        self._base = self._read = len(self._ids)
        self._prefix = 0
        self._raw, self._searched = "", 0  # decoded so far; letters in which stop strings were looked for
        self.text = self.head

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be written: finished, failed, or not wanted any more."""
        return self.finish_reason is not None or self.error is not None or self.cancelled.is_set()

    @property
    def length(self) -> int:
        """Tokens of the prompt and the longest text."""
        return len(self.prompt) + self.max_new_tokens

    def advance(self, ids: Sequence[int], whole: bool = False) -> None:
        """Take the finished tokens `ids` from the prompt's first on: the same ones as before, and more.

        Args:
            whole: whether nothing will follow.
        """
        if self.is_over:
            return
        ends = [i for i, token in enumerate(ids) if i >= self._end_from and token in self.eos_token_ids]
        end = ends[0] if ends else len(ids)
        new = list(ids[self._start : end])
        for token in new[len(self._ids) - self._base :]:
            self._ids.append(token)
            self._decode(whole=False)
            if self._stopped_by_string():
                return
        finished = bool(ends) or whole or len(ids) >= self.length
        if finished:
            self._decode(whole=True)
            if self._stopped_by_string():
                return
            self.num_tokens = self._count(end + bool(ends))
            self.text = self.head + self._raw
            self.finish_reason = "stop" if ends else "length"
        else:
            self.text = self.head + self._raw[: len(self._raw) - self._held_back()]
        self.listener()

    def show(self, draft: Draft) -> None:
        """Keep the newest draft."""
        if not self.is_over:
            self.draft = draft
            self.listener()

    def fail(self, error: ApiError) -> None:
        """End without a text."""
        if not self.is_over:
            self.error = error
            self.listener()

    def _count(self, end: int) -> int:
        """Tokens written in front of position `end`."""
        return sum(gap < end for gap in self.gaps) + max(0, end - len(self.prompt))

    def _decode(self, whole: bool) -> None:
        """Decode what is new, with the tokens just before it; a letter whose last bytes are missing waits, unless that is all."""
        before = self.tokenizer.decode(self._ids[self._prefix : self._read], skip_special_tokens=True)
        text = self.tokenizer.decode(self._ids[self._prefix :], skip_special_tokens=True)
        if len(text) > len(before) and (whole or not text.endswith("�")):
            self._raw += text[len(before) :]
            self._prefix, self._read = self._read, len(self._ids)

    def _stopped_by_string(self) -> bool:
        """Whether a stop string ends here: the text ends in front of it."""
        places = (self._raw.find(word, max(0, self._searched + 1 - len(word))) for word in self.stop)
        found = [place for place in places if place >= 0]
        self._searched = len(self._raw)
        if not found:
            return False
        self.num_tokens = len(self._ids) - self._base
        self.text = self.head + self._raw[: min(found)]
        self.finish_reason = "stop"
        self.listener()
        return True

    def _held_back(self) -> int:
        """Letters at the end that may be the beginning of a stop string."""
        longest = 0
        for word in self.stop:
            for size in range(min(len(word) - 1, len(self._raw)), longest, -1):
                if self._raw.endswith(word[:size]):
                    longest = size
                    break
        return longest
