"""Compute the diversity and likelihood figures of a published page again from its texts and nats, and print what differs:
`python -m tools.figures_again docs/results/NAME.jsonl.gz`."""

import json
import math
from pathlib import Path

from arche_mdlm.studies.engine.records import figures_again, published_figures
from arche_mdlm.training.command_line import SEED, ArgumentParser, exit_status
from arche_mdlm.writing.sample_file import read_records

_TOLERANCE = 1e-9  # relative: sums in another order


def main(argv: list[str] | None = None) -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="NAME.jsonl.gz; NAME.json must be in the same folder")
    parser.add_argument(
        "--held_out", type=Path, help="jsonl of held-out stories, to also measure texts that continue their beginnings"
    )
    parser.add_argument("--seed", type=SEED, default=0, help="seed of the bootstrap; must be that of the study")
    args = parser.parse_args(argv)
    if not args.file.name.endswith(".jsonl.gz"):
        raise ValueError(f"file={str(args.file)!r} must be the NAME.jsonl.gz that --publish writes")
    report = json.loads(
        args.file.with_name(args.file.name.removesuffix(".jsonl.gz") + ".json").read_text(encoding="utf-8")
    )
    stories = [record["text"] for record in read_records(args.held_out)] if args.held_out else []
    again, published = figures_again(args.file, args.seed, stories), published_figures(report)
    compared, differing = 0, 0
    for job in sorted(again.keys() & published.keys()):
        for name in sorted(again[job].keys() & published[job].keys()):
            if not isinstance(again[job][name], (int, float)):
                continue  # intervals
            compared += 1
            if not math.isclose(again[job][name], published[job][name], rel_tol=_TOLERANCE):
                differing += 1
                print(f"{job}, {name}: published {published[job][name]}, computed {again[job][name]}")
    left = len(published.keys() - again.keys())
    print(
        f"{compared} figures of {len(again.keys() & published.keys())} jobs compared, {differing} differ; {left} jobs of the report not computed"
    )
    return 1 if differing or not compared else 0


if __name__ == "__main__":
    raise SystemExit(exit_status(main))
