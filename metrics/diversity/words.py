"""What counts as a word of a text."""

import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

TOKENIZERS: dict[str, Callable[[str], list[str]]] = {
    "words": lambda text: text.lower().split(),
    "characters": lambda text: [letter for letter in text.lower() if not letter.isspace()],
}
Tokenizer = str | Callable[[str], list[Any]]
# Scripts that put no space between words: Thai, Lao, Tibetan, Burmese, Khmer, kana, Chinese characters.
_UNSPACED = re.compile("[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
                       "\uf900-\ufaff\U00020000-\U0003ffff]")  # fmt: skip
_LONG_WORD = 25  # letters a word, on average, that no text in words has
_UNSPLIT_SHARE = 0.05  # of the texts, from which on it is worth a warning


def unsplit_share(texts: Iterable[str]) -> float:
    """Share of the texts with a letter of which white space does not separate the words.

    Those are mostly in a script that writes no spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan), or have
    more than 25 letters a word.
    """
    known, unsplit = 0, 0
    for text in texts:
        letters = sum(letter.isalpha() for letter in text)
        known += letters > 0
        unsplit += letters > 0 and (
            2 * len(_UNSPACED.findall(text)) > letters or letters > _LONG_WORD * max(1, len(text.split()))
        )
    return unsplit / max(1, known)


@dataclass(frozen=True)
class Splitter:
    """Texts to lists of tokens."""

    function: Callable[[str], list]
    is_default: bool

    @classmethod
    def of(cls, tokenizer: Any) -> "Splitter":
        if isinstance(tokenizer, str) and tokenizer in TOKENIZERS:
            return cls(TOKENIZERS[tokenizer], tokenizer == "words")
        if isinstance(tokenizer, str) or not callable(tokenizer):
            raise ValueError(
                f"tokenizer={tokenizer!r:.80} must be one of {', '.join(TOKENIZERS)}, or a function from a text to a list of "
                "tokens"
            )
        return cls(tokenizer, False)

    def __call__(self, text: str) -> list:
        tokens = self.function(text)
        if not isinstance(tokens, (list, tuple)):
            raise ValueError(
                f"tokenizer gives {type(tokens).__name__} for a text, not a list of tokens; of a Hugging Face tokenizer, pass "
                "its method `tokenize`"
            )
        return list(tokens)

    def warn(self, name: str, texts: list[str]) -> None:
        if self.is_default and (share := unsplit_share(texts)) >= _UNSPLIT_SHARE:
            warnings.warn(
                f"{name}: white space does not separate the words of {share:.0%} of the texts, so a whole sentence counts as "
                "a word; give tokenizer='characters', or a function that splits a text of this language into words",
                stacklevel=4,
            )
