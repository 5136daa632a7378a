"""The figures of a set of texts, as reports name and write them."""

from typing import NamedTuple


class Figure(NamedTuple):
    """`label` for a line of a table, `short` for a heading or a panel, `style` for `format`."""

    label: str
    short: str
    style: str


FIGURES = {
    "distinct_1": Figure("Distinct-1", "Distinct-1", ".3f"),
    "distinct_2": Figure("Distinct-2", "Distinct-2", ".3f"),
    "distinct_3": Figure("Distinct-3", "Distinct-3", ".3f"),
    "distinct_4": Figure("Distinct-4", "Distinct-4", ".3f"),
    "self_bleu": Figure("Self-BLEU", "Self-BLEU", ".3f"),
    "vocabulary_size": Figure("vocabulary", "vocabulary", ",.0f"),
    "distinct_first_words": Figure("distinct first words", "first words", ".1%"),
    "distinct_openings": Figure("distinct five-word openings", "openings", ".1%"),
    "repetition_4": Figure("repetition within a story", "repetition", ".4f"),
    "unigram_entropy": Figure("unigram entropy, nats", "unigram entropy", ".3f"),
    "generative_perplexity": Figure("generative perplexity", "generative perplexity", ".1f"),
    "mauve": Figure("MAUVE", "MAUVE", ".3f"),
    "longest_copy": Figure("longest n-gram of training, words", "longest copy", ".1f"),
    "copied_13_grams": Figure("13-grams of training", "copied 13-grams", ".2%"),
    "mean_words": Figure("words a story", "words a story", ".1f"),
    "ended_by_eos": Figure("ended by EOS", "ended by EOS", ".1%"),
}
