"""The figures of a set of texts, as reports name and write them."""

from typing import NamedTuple


class Figure(NamedTuple):
    """`label` for a line of a table, `short` for a heading or a panel, `style` for `format`, `meaning` for a newcomer."""

    label: str
    short: str
    style: str
    meaning: str = ""


MAUVE_RANKS_BELOW = 500  # texts: with fewer its value means little, only which of two sets of as many is higher
FEW_JUDGED = 64  # texts: with fewer a judge's perplexity is rough

FIGURES = {
    "distinct_1": Figure(
        "Distinct-1", "Distinct-1", ".3f", "different words, as a share of all words; more is more varied"
    ),
    "distinct_2": Figure("Distinct-2", "Distinct-2", ".3f", "the same of pairs of words; more is more varied"),
    "distinct_3": Figure("Distinct-3", "Distinct-3", ".3f", "the same of three words in a row; more is more varied"),
    "distinct_4": Figure("Distinct-4", "Distinct-4", ".3f", "the same of four words in a row; more is more varied"),
    "self_bleu": Figure(
        "Self-BLEU",
        "Self-BLEU",
        ".3f",
        "how much a story is made of phrases of the others, 0 to 1; less is more varied",
    ),
    "vocabulary_size": Figure("vocabulary", "vocabulary", ",.0f", "different words in all stories together"),
    "distinct_first_words": Figure(
        "distinct first words",
        "first words",
        ".1%",
        "different first words, as a share of the stories; more is more varied",
    ),
    "distinct_openings": Figure(
        "distinct five-word openings",
        "openings",
        ".1%",
        "different first five words, as a share of the stories; more is more varied",
    ),
    "repetition_4": Figure(
        "repetition within a story",
        "repetition",
        ".4f",
        "four-word phrases that a story says again, as a share; less is better, real stories have some",
    ),
    "unigram_entropy": Figure("unigram entropy, nats", "unigram entropy", ".3f"),
    "generative_perplexity": Figure("generative perplexity", "generative perplexity", ".1f"),
    "mauve": Figure("MAUVE", "MAUVE", ".3f"),
    "longest_copy": Figure("longest n-gram of training, words", "longest copy", ".1f"),
    "copied_13_grams": Figure("13-grams of training", "copied 13-grams", ".2%"),
    "mean_words": Figure("words a story", "words a story", ".1f", "length; close to real stories is good"),
    "ended_by_eos": Figure("ended by EOS", "ended by EOS", ".1%"),
    "cut_texts": Figure("texts cut at their end", "cut", ".0%"),
}
