"""The corpus that ships with the project: stories sampled from our own AR model.
`python -m tools.sample_corpus --checkpoint checkpoints/ar-tinystories-mini`"""

import json
import os

from arche_mdlm.training.command_line import SEED, TEMPERATURE, ArgumentParser, checkpoint, count, exit_status
from arche_mdlm.training.data.corpus import SAMPLE_CORPUS
from arche_mdlm.training.files.own_files import check_writable
from arche_mdlm.training.models.loading import load_arm
from arche_mdlm.writing.stories import write_stories


def main(argv: list[str] | None = None) -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=checkpoint, required=True)
    parser.add_argument("--num_samples", type=count(), default=600)
    parser.add_argument("--temperature", type=TEMPERATURE, default=0.8)
    parser.add_argument("--seed", type=SEED, default=1)
    args = parser.parse_args(argv)
    check_writable(SAMPLE_CORPUS.parent)
    model, tokenizer = load_arm(args.checkpoint)
    result = write_stories(
        model, tokenizer, [""] * args.num_samples, seed=args.seed, do_sample=True, temperature=args.temperature, top_k=0
    )
    texts = dict.fromkeys(story.text.strip() for story in result.stories if story.ended)  # whole ones, each once
    lines = [
        json.dumps({"text": text, "source": "sampled from ar-tinystories-mini"}, ensure_ascii=False) for text in texts
    ]
    aside = SAMPLE_CORPUS.with_suffix(".part")  # the project's own file: replaced without a question
    aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(aside, SAMPLE_CORPUS)
    print(f"{len(lines)} stories are in {SAMPLE_CORPUS}")
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_status(main))
