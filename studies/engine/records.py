"""The texts and per-story nats behind a published report, so that its figures can be computed again without training.

One line a record, JSON, compressed, of the same bytes for the same study. Held-out stories are in it by their sha256 only, and so are
prompts, which may be made of them: of a text that continues one, only the continuation is kept.
"""

import gzip
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from arche_mdlm.metrics.diversity import diversity
from arche_mdlm.studies.engine.inputs import SAMPLES, read_samples
from arche_mdlm.studies.engine.jobs import RESULT_FILE

HASHES = "stories_sha256"  # of a likelihood's result
_LONGEST_PROMPT = 400  # characters of a held-out story that may be a prompt


def sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def story_hashes(rows: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The sha256 of the text of each story, given as BOS ... EOS token ids."""
    return [sha256_of(text) for text in tokenizer.batch_decode([list(ids[1:-1]) for ids in rows])]


def records_of(study: Path) -> Iterator[dict]:
    """By job, of finished jobs in the plan: `job`, `index` and `text` of every text, with `prompt_sha256` where it is what continues a prompt;
    `job`, `nats` and `tokens` of every likelihood, with `held_out`, the name of a list of stories; and each such list once, before it is named:
    `held_out` and `sha256`."""
    described = json.loads((study / "study.json").read_text(encoding="utf-8"))
    told: set[str] = set()
    for job in sorted(described["jobs"], key=lambda one: one["name"]):
        folder = study / "jobs" / f"{job['name']}-{job['key']}"
        if not (folder / RESULT_FILE).is_file():
            continue
        result = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))["result"]
        stories = (
            read_samples(folder)
            if (folder / SAMPLES).is_file()
            else [{"text": text} for text in result.get("texts", [])]
        )
        for index, story in enumerate(stories):
            yield {"job": job["name"], "index": index, **without_prompt(story["text"], story.get("prompt", ""))}
        if "nats" in result and "tokens" in result:
            record = {"job": job["name"], "nats": result["nats"], "tokens": result["tokens"]}
            if HASHES in result:
                record["held_out"] = name = sha256_of("".join(result[HASHES]))[:16]
                if name not in told:
                    yield {"held_out": name, "sha256": result[HASHES]}
                told.add(name)
            yield record


def without_prompt(text: str, prompt: str) -> dict:
    """`text`, and `prompt_sha256` where it is what continues a prompt."""
    if not prompt or not text.startswith(prompt):  # masks within a prompt are filled
        return {"text": text}
    return {"text": text[len(prompt) :], "prompt_sha256": sha256_of(prompt)}


def packed(study: Path) -> bytes:
    """The records as a compressed file; empty for a study without any."""
    buffer, any_record = io.BytesIO(), False
    with gzip.GzipFile(fileobj=buffer, mode="wb", filename="", mtime=0) as stream:  # the same header with every Python
        for record in records_of(study):
            any_record = True
            stream.write((json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n").encode())
    return buffer.getvalue() if any_record else b""


def figures_again(file: Path, seed: int = 0, held_out: Sequence[str] = ()) -> dict[str, dict]:
    """From a published file, by job: `diversity` of its texts, or `nats_per_token`. Equal to the report's, which has them under the same seed.

    Texts that continue a prompt are measured with it, as in the report, and so only where `held_out` has the stories whose beginnings the
    prompts are.
    """
    prompts = {sha256_of(story[:end]): story[:end] for story in held_out for end in range(1, _LONGEST_PROMPT + 1)}
    texts: dict[str, list[str | None]] = {}
    found: dict[str, dict] = {}
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        for line in stream:
            record = json.loads(line)
            if "text" in record:
                prompt = prompts.get(record["prompt_sha256"]) if "prompt_sha256" in record else ""
                texts.setdefault(record["job"], []).append(None if prompt is None else prompt + record["text"])
            elif "job" in record:
                found[record["job"]] = {"nats_per_token": sum(record["nats"]) / sum(record["tokens"])}
    for job, own in texts.items():
        known = [text for text in own if text is not None]
        if len(known) == len(own) > 1 and any(text.split() for text in known):
            found[job] = diversity(known, seed=seed)
    return found


def published_figures(report: dict) -> dict[str, dict]:
    """What a report's JSON has of the same jobs: of `compare`, the controlled study, the families', or speed against quality."""
    # The figures of texts are those of the job that judges them.
    found = {
        f"texts-{job[7:]}" if job.startswith("judged-") else job: cell
        for job, cell in sorted(report.get("cells", {}).items(), reverse=True)
    }
    for name, arm in report.get("arms", {}).items():
        if arm.get("diversity"):
            found[f"{name}-unprompted"] = arm["diversity"]
        for key, group in arm.get("samples", {}).items():
            checkpoint, prompt, temperature = key.split(", ")
            for seed, entry in group["seeds"].items():
                found[f"sample-{name}-s{seed}-{checkpoint}-{prompt}-t{temperature}"] = entry["figures"] or {}
        for checkpoint, group in arm.get("likelihood", {}).items():
            for seed, entry in group.get("seeds", {}).items():
                found[f"likelihood-{name}-s{seed}-{checkpoint}"] = entry
        for seed, entry in arm.get("exact", {}).get("seeds", {}).items():
            found[f"exact-{name}-s{seed}"] = entry
        for entry in arm.get("likelihood", {}).values():
            if "nats" in entry:  # a card's figures are of no story that is here
                found.setdefault(f"{name}-likelihood", entry)
    return found
