"""The law of the first token in reports: a table and a picture of data and models, exact where models have it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from arche_mdlm.metrics.tokens.first_token import FirstTokenLaw, first_token_law
from arche_mdlm.studies.engine.markdown import number, table
from arche_mdlm.studies.engine.plots import finish, subplots
from arche_mdlm.studies.engine.readings.intervals import over_seeds
from arche_mdlm.training.models.arms import arm_of

DATA = "data"  # the label of the texts' own law
PICTURE = "first_tokens.png"
CAPTION = "The law of the first token: the most probable ones, log scale; thin lines: lowest and highest seed"
_TOP = 10


def law_of_model(model: Any) -> dict:
    """A job's result: `probabilities` (V,) and `what` it is; `why` there is none, for a family without it."""
    try:
        law = first_token_law(model)
    except ValueError as error:
        return {"why": str(error)}
    what = (
        "exact for writing a token at a time from left to right: its denoiser on a canvas of masks"
        if arm_of(model).denoises
        else "exact: its softmax at the BOS"
    )
    return {"probabilities": law.probabilities.tolist(), "what": what}


def law_of_ids(first_ids: Sequence[int], vocab_size: int, what: str) -> dict:
    """The same of texts, by the ids of their first tokens."""
    law = FirstTokenLaw.of_texts(first_ids, vocab_size)
    return {"probabilities": law.probabilities.tolist(), "num_texts": law.num_texts, "what": what}


def vocabulary_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of tokens and ids: first tokens compare only under one tokenizer."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def described(laws: Mapping[str, Sequence[dict]], tokenizer: PreTrainedTokenizerBase, number_of_texts: int) -> dict:
    """For a report: figures of each label's laws (one a seed of training), and the most probable tokens of any label."""
    entries: dict[str, Any] = {}
    found = [one for own in laws.values() for one in own if "why" not in one]
    size = max((len(one["probabilities"]) for one in found), default=0)  # a head may be wider than the tokenizer
    known = {label: [_law(one, size) for one in own if "why" not in one] for label, own in laws.items()}
    for label, own in laws.items():
        if known[label]:
            entries[label] = {
                "what": own[0]["what"],
                "entropy_nats": over_seeds([law.entropy for law in known[label]]),
                "expected_distinct": over_seeds([law.expected_distinct(number_of_texts) for law in known[label]]),
                "num_texts": known[label][0].num_texts,
            }
        elif own:
            entries[label] = {"why": own[0]["why"]}
    means = {
        label: np.mean([law.probabilities for law in of_seeds], axis=0) for label, of_seeds in known.items() if of_seeds
    }
    if not means:
        return {"number": number_of_texts, "laws": entries, "top": []}
    order = np.argsort(-np.max(list(means.values()), axis=0), kind="stable")[:_TOP]
    top = [
        {"id": int(v), "token": _shown(int(v), tokenizer),
         "shares": {label: [float(law.probabilities[v]) for law in known[label]] for label in means}}
        for v in order
    ]  # fmt: skip
    return {"number": number_of_texts, "laws": entries, "top": top}


def _law(found: dict, size: int) -> FirstTokenLaw:
    probabilities = np.zeros(size)
    probabilities[: len(found["probabilities"])] = found["probabilities"]
    return FirstTokenLaw(probabilities, found.get("num_texts"))


def _shown(token_id: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """A token as text, or its entry in the vocabulary if it is not text by itself."""
    text = str(tokenizer.decode([token_id])).strip()
    return (
        text if text.isprintable() and text and "\ufffd" not in text else str(tokenizer.convert_ids_to_tokens(token_id))
    )


def section(found: dict | None) -> list[str]:
    """Heading, table and what the figures are; empty without laws."""
    if not found or not found["laws"]:
        return []
    rows = [[label, *_cells(own)] for label, own in found["laws"].items()]
    header = ["", "entropy, nats", f"different first tokens in {found['number']:,} texts, expected", "what it is"]
    return [
        "## The law of the first token",
        table(header, rows, words=(0, -1)),
        "From one forward, without sampling: the only noise is that of training. Of texts: shares of first tokens; their entropy is "
        "corrected for its bias in a finite number of texts (Miller and Madow: plus (K - 1) / 2N nats, of K tokens seen in N texts), "
        "and the expected number is that of draws without replacement. Temperature 1.",
    ]


def _cells(own: dict) -> list[str]:
    if "why" in own:
        return ["–", "–", own["why"]]
    cells = [number(f["estimate"], style, (f["low"], f["high"]))
             for f, style in ((own["entropy_nats"], ".3f"), (own["expected_distinct"], ".1f"))]  # fmt: skip
    return [*cells, own["what"]]


def picture(found: dict, colours: Mapping[str, str]) -> Any:
    """Bars of the most probable tokens, a group a token, a bar a label; None without laws."""
    labels = [label for label, own in found["laws"].items() if "why" not in own]
    if not labels or not found["top"]:
        return None
    figure, axis = subplots(size=(9, 4))
    width, places = 0.8 / len(labels), np.arange(len(found["top"]))
    for index, label in enumerate(labels):
        shares = [entry["shares"][label] for entry in found["top"]]
        means = np.array([np.mean(own) for own in shares])
        spread = [means - [min(own) for own in shares], [max(own) for own in shares] - means]
        error = spread if len(shares[0]) > 1 else None
        axis.bar(places + (index - (len(labels) - 1) / 2) * width, means, width, label=label, color=colours.get(label, "0.6"),
                 yerr=error, error_kw={"lw": 0.8})  # fmt: skip
    axis.set_xticks(places, [entry["token"] for entry in found["top"]])
    axis.set(yscale="log", ylabel="probability of the first token")
    finish(axis, legend=True)
    return figure
