"""The texts and per-story nats behind a published report, so that its figures can be computed again without training.

One line a record, JSON, compressed, of the same bytes for the same study. Held-out stories are not in it: the jobs' results
do not have them, and what models wrote is all that is read (with the prompt that they continue, such as 8 tokens of a story).
"""

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path

from arche_mdlm.metrics.diversity import diversity
from arche_mdlm.studies.engine.inputs import SAMPLES, read_samples
from arche_mdlm.studies.engine.jobs import RESULT_FILE


def records_of(study: Path) -> Iterator[dict]:
    """`job`, `index` and `text` of every text, `job`, `nats` and `tokens` of every likelihood, by job, of finished jobs in the plan."""
    described = json.loads((study / "study.json").read_text(encoding="utf-8"))
    for job in sorted(described["jobs"], key=lambda one: one["name"]):
        folder = study / "jobs" / f"{job['name']}-{job['key']}"
        if not (folder / RESULT_FILE).is_file():
            continue
        result = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))["result"]
        texts = (
            [story["text"] for story in read_samples(folder)]
            if (folder / SAMPLES).is_file()
            else result.get("texts", [])
        )
        for index, text in enumerate(texts):
            yield {"job": job["name"], "index": index, "text": text}
        if "nats" in result and "tokens" in result:
            yield {"job": job["name"], "nats": result["nats"], "tokens": result["tokens"]}


def packed(study: Path) -> bytes:
    """The records as a compressed file."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", filename="", mtime=0) as stream:
        for record in records_of(study):
            stream.write((json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n").encode())
    return buffer.getvalue()


def figures_again(file: Path, seed: int = 0) -> dict[str, dict]:
    """From a published file, by job: `diversity` of its texts, or `nats_per_token`. Equal to the report's, which has them under the same seed."""
    texts: dict[str, list[str]] = {}
    found: dict[str, dict] = {}
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        for line in stream:
            record = json.loads(line)
            if "text" in record:
                texts.setdefault(record["job"], []).append(record["text"])
            else:
                found[record["job"]] = {"nats_per_token": sum(record["nats"]) / sum(record["tokens"])}
    for job, own in texts.items():
        if len(own) > 1 and any(text.split() for text in own):
            found[job] = diversity(own, seed=seed)
    return found
