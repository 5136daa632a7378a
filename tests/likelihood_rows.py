"""Rows and sizes of models for the tests of likelihoods."""

import math

import torch
from seeds import seeded

BOS, EOS, PAD, MASK = 0, 1, 2, 3


TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 12}


SPECIAL = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}


def random_stories(num_stories=5, longest=9, seed=0):
    lengths = torch.randint(2, longest - 1, (num_stories,), generator=seeded(seed)).tolist()
    return [[BOS, *torch.randint(4, 12, (n,), generator=seeded(n)).tolist(), EOS] for n in lengths]


def pad_rows(rows, width, side):
    ids, mask = torch.full((len(rows), width), PAD), torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        part = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[index, part], mask[index, part] = torch.tensor(row), 1
    return ids, mask


def manual_nll(model, row):
    """One token at a time, each with a forward of its own and the softmax written out."""
    total = 0.0
    for end in range(1, len(row)):
        with torch.no_grad():
            logits = model(torch.tensor([row[:end]])).logits[0, -1].double()
        total -= math.log(float(logits[row[end]].exp() / logits.exp().sum()))
    return total
