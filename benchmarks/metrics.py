"""Exact Self-BLEU, texts a second: ours, and NLTK's sentence_bleu of each text against all others."""

import itertools
import random
import warnings

from nltk.translate.bleu_score import sentence_bleu

from arche_mdlm.metrics.diversity import per_story_self_bleu

_CANDIDATES = 2  # of NLTK's in a round: a thousand would take minutes


def stories(number: int, seed: int = 0) -> list[str]:
    """Texts of 170 words on average whose words and phrases come back as those of stories do."""
    rng = random.Random(seed)
    words = [f"w{min(rng.randrange(5000), rng.randrange(5000), rng.randrange(5000))}" for _ in range(20_000)]
    phrases = [" ".join(rng.sample(words, rng.randint(2, 6))) for _ in range(3000)]
    return [" ".join(rng.choice(phrases) for _ in range(rng.randint(20, 65))) for _ in range(number)]


def contestants(number: int) -> dict:
    texts = stories(number)
    split = [text.split() for text in texts]
    turn = itertools.count()

    def pairwise() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a text without a match of some order
            for _ in range(_CANDIDATES):
                index = next(turn) % number
                sentence_bleu(split[:index] + split[index + 1 :], split[index])

    return {"ours": (lambda: per_story_self_bleu(texts), number), "pairwise": (pairwise, _CANDIDATES)}
