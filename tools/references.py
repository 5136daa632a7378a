"""Figures of held-out stories, over draws of several numbers of them, which are committed in place of the stories:
`python -m tools.references held_out.jsonl --checkpoint checkpoints/ar-tinystories-mini`."""

from argparse import Namespace
from collections import Counter
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from arche_mdlm.metrics.tokens.bigram import fit_bigram
from arche_mdlm.studies.engine.readings.first_tokens import vocabulary_hash
from arche_mdlm.studies.engine.readings.references import (
    REFERENCE_FIGURES,
    fingerprint,
    fitting_stories,
    reference_figures,
)
from arche_mdlm.training.command_line import SEED, ArgumentParser, checkpoint, count, exit_status
from arche_mdlm.training.files.checkpointing import write_json_atomically
from arche_mdlm.training.files.own_files import check_writable


def main(argv: list[str] | None = None) -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("source", help="file of held-out stories")
    parser.add_argument(
        "--checkpoint",
        type=checkpoint,
        required=True,
        help="checkpoint whose tokenizer and context determine which stories fit",
    )
    parser.add_argument("--context_length", type=count(2), default=256)
    parser.add_argument("--numbers", type=count(2), nargs="+", default=[32, 64, 100, 200, 500, 1000])
    parser.add_argument(
        "--train",
        help="file of training stories, for the bigram and the counts of first tokens (default: no bigram, counts of held-out stories)",
    )
    parser.add_argument("--seed", type=SEED, default=0)
    args = parser.parse_args(argv)
    check_writable(REFERENCE_FIGURES.parent)
    tokenizer = AutoTokenizer.from_pretrained(args.checkpoint)
    texts = fitting_stories(args.source, tokenizer, args.context_length)
    figures = {str(n): reference_figures(texts, n, args.seed) for n in args.numbers}
    name = Path(args.source).name
    report = {
        "source": f"{len(texts):,} held-out TinyStories of at most {args.context_length} tokens",
        "sha256": fingerprint(texts),
        "command": f"python -m tools.references {name} --checkpoint {args.checkpoint}"
        + (f" --train {Path(args.train).name}" if args.train else "")
        + f" --seed {args.seed}",
        "figures": figures,
        "first_tokens": _first_tokens(args, tokenizer),
        **({"bigram": _bigram(args, tokenizer)} if args.train else {}),
    }
    write_json_atomically(REFERENCE_FIGURES, report)  # the project's own file: replaced without a question
    print(f"figures of {len(texts)} stories are in {REFERENCE_FIGURES}")
    return 0


def _bigram(args: Namespace, tokenizer: PreTrainedTokenizerBase) -> dict:
    """An interpolated bigram of the training stories, on the held-out ones."""
    train, held_out = (
        [[*ids, tokenizer.eos_token_id] for ids in tokenizer(stories, verbose=False)["input_ids"]]
        for stories in (fitting_stories(file, tokenizer, args.context_length) for file in (args.train, args.source))
    )
    model = fit_bigram(train, len(tokenizer))
    what = f"interpolated bigram of {len(train):,} training stories, on {len(held_out):,} held-out TinyStories"
    return {"nats_per_token": model.nats_per_token(held_out), "weight": model.weight, "what": what}


def _first_tokens(args: Namespace, tokenizer: PreTrainedTokenizerBase) -> dict:
    stories = fitting_stories(args.train or args.source, tokenizer, args.context_length)
    counts = Counter(ids[1] for ids in tokenizer(stories, verbose=False)["input_ids"] if len(ids) > 1)
    what = f"{'training' if args.train else 'held-out'} stories of TinyStories"
    return {"what": what, "vocabulary": vocabulary_hash(tokenizer), "counts": dict(sorted(counts.items()))}


if __name__ == "__main__":
    raise SystemExit(exit_status(main))
