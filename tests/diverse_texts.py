"""Texts and names for the tests of diversity."""

import random

NAMES = [f"distinct_{n}" for n in range(1, 5)]


SIX = [
    "The cat sat on the mat. The cat sat on the rug.",
    "the cat sat on the mat. the cat sat on the mat. the dog ran",
    "A dog ran home",
    "the cat sat on the mat",
    "one two",
    "",
]


def stories(count, *, words=40, seed=0, vocabulary=60):
    """Texts of a skewed vocabulary and many lengths, with phrases that come back."""
    rng = random.Random(seed)
    phrases = [
        " ".join(f"w{min(rng.randrange(vocabulary), rng.randrange(vocabulary))}" for _ in range(6)) for _ in range(20)
    ]
    texts = []
    for _ in range(count):
        text = " ".join(rng.choice(phrases) for _ in range(rng.randint(1, words // 6))).split()
        texts.append(" ".join(text[: rng.randint(1, len(text))]))
    return texts


CHINESE = ["今天天气很好，我们去公园玩。", "小猫坐在红色的垫子上。", "小狗坐在红色的垫子上。", "他们 都 很 高兴"]
