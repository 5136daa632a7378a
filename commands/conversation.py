"""What has been said, as the token ids that the next reply is written behind."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Conversation:
    """Turns by a tokenizer's chat template; without one, a text that both sides go on with.

    Args:
        context: tokens that prompt and reply may have together.
        system: what the template gets in front of the first turn; ValueError without a template.
    """

    tokenizer: Any
    context: int
    system: str | None = None
    turns: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.has_template = bool(self.tokenizer.chat_template)
        if self.system is not None and not self.has_template:
            raise ValueError(
                f"--system {self.system!r} needs a chat template, but the tokenizer of this checkpoint has none"
            )

    def reset(self) -> None:
        """Begin anew."""
        self.turns.clear()

    def say(self, text: str) -> None:
        """Take what the user has written."""
        self.turns.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        """Take the reply; without one, what the user has written last is taken back."""
        if text:
            self.turns.append({"role": "assistant", "content": text})
        elif self.turns:
            self.turns.pop()

    def prompt(self, new_tokens: int) -> tuple[list[int], bool]:
        """Token ids that leave room for so many new tokens, and whether the oldest turns had to be left out.

        ValueError where the last turn alone does not fit.
        """
        first = 0
        while len(ids := self._encode(self.turns[first:])) + new_tokens > self.context:
            first += 1
            while first < len(self.turns) and self.turns[first]["role"] != "user":  # a chat begins with the user
                first += 1
            if first >= len(self.turns):
                raise ValueError(
                    f"this turn has {len(ids)} tokens: with --max_new_tokens {new_tokens} it does not fit the context of {self.context}"
                )
        self.turns = self.turns[first:]
        return ids, first > 0

    def _encode(self, turns: list[dict[str, str]]) -> list[int]:
        if not self.has_template:
            parts = [("\n" if i and turn["role"] == "user" else "") + turn["content"] for i, turn in enumerate(turns)]
            return self.tokenizer("".join(parts), verbose=False)["input_ids"]
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        text = self.tokenizer.apply_chat_template([*system, *turns], tokenize=False, add_generation_prompt=True)
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
