"""The corpus that ships with the project: stories sampled from our own AR model.
`python -m arche_mdlm.studies.sample_corpus --checkpoint checkpoints/ar-tinystories-mini`"""

import argparse
import json

from arche_mdlm.studies.stories import write_stories
from arche_mdlm.training.corpus import SAMPLE_CORPUS
from arche_mdlm.training.loading import load_arm


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--num_samples", type=int, default=600)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    model, tokenizer = load_arm(args.checkpoint)
    result = write_stories(
        model, tokenizer, [""] * args.num_samples, seed=args.seed, do_sample=True, temperature=args.temperature, top_k=0
    )
    texts = dict.fromkeys(story.text.strip() for story in result.stories if story.ended)  # whole ones, each once
    SAMPLE_CORPUS.parent.mkdir(exist_ok=True)
    lines = [
        json.dumps({"text": text, "source": "sampled from ar-tinystories-mini"}, ensure_ascii=False) for text in texts
    ]
    SAMPLE_CORPUS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} stories are in {SAMPLE_CORPUS}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
