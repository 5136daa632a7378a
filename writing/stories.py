"""Stories written by either arm: the same prompts, the same settings, one seed a story."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tqdm.auto import tqdm

from arche_mdlm.training.models.arms import arm_of
from arche_mdlm.writing.sample_file import SampleFile, read_records


@dataclass(frozen=True)
class Story:
    """One sample; `text` holds the prompt too."""

    prompt: str
    text: str
    seed: int
    num_tokens: int  # written, EOS counted
    ended: bool  # by an EOS, not by the end of the context

    def to_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Stories:
    """A set of samples and what they cost."""

    stories: list[Story]
    seconds: float

    @property
    def texts(self) -> list[str]:
        return [story.text for story in self.stories]


def write_stories(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    batch_size: int = 50,
    description: str = "writing",
    file: SampleFile | None = None,
    **generate_kwargs: Any,
) -> Stories:
    """One story for each prompt ("" is the empty prompt: a BOS).

    The diffusion arm gives every story a stream of its own, seeded by (seed, index): `batch_size` changes nothing.
    transformers' AR sampling has one stream a batch, so there a story depends on its batch too.

    With a `file`, of as many samples in batches of the same size, every batch is kept there as soon as it is written, and
    what it holds already is not written again.
    """
    model.eval()
    batches = _ranges(len(prompts), batch_size) if file is None else file.begin() or []
    records: list[dict] = []
    with tqdm(total=len(prompts), desc=description, unit="story") as bar:
        bar.update(len(prompts) - sum(len(batch) for batch in batches))
        for batch in batches:
            start = time.perf_counter()
            part, seeds = [prompts[i] for i in batch], [own_seed(seed, i) for i in batch]
            stories = write_batch(model, tokenizer, part, seeds, generate_kwargs).stories
            seconds = (time.perf_counter() - start) / len(batch)
            found = [
                {**story.to_dict(), "index": i, "seconds": seconds} for i, story in zip(batch, stories, strict=True)
            ]
            if file is None:
                records += found
            else:
                file.append(found)
            bar.update(len(batch))
    if file is not None:
        if batches or not file.path.exists():
            file.finish()
        records = read_records(file.path)
    total = sum(record["seconds"] for record in records)
    names = Story.__dataclass_fields__
    return Stories([Story(**{name: record[name] for name in names}) for record in records], total)


def _ranges(total: int, size: int) -> list[range]:
    return [range(first, min(first + size, total)) for first in range(0, total, size)]


def own_seed(seed: int, index: int) -> int:
    """The seed of a sample's own stream."""
    return seed * 1_000_003 + index


@dataclass(frozen=True)
class Batch:
    """Stories written together, and how many forwards of the model each took (None: not counted, AR)."""

    stories: list[Story]
    num_forward_passes: list[int] | None


def write_batch(model: Any, tokenizer: Any, prompts: list[str], seeds: list[int], generate_kwargs: dict) -> Batch:
    """One story for each prompt, from its own seed (diffusion arm) or from the first one for all (AR).

    Masks in a prompt are filled, by the diffusion arm, and count as written.
    """
    encoded = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", verbose=False).to(model.device)
    inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    input_ids, attention_mask = inputs.values()
    arm = arm_of(model)
    written = arm.generate(model, inputs, seeds, generate_kwargs)
    sequences = written.sequences
    stories = []
    for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        given = sequences[row, : input_ids.shape[1]][attention_mask[row].bool()].tolist()
        gaps = int((input_ids[row] == tokenizer.mask_token_id).sum()) if arm.denoises else 0
        ids = sequences[row, input_ids.shape[1] :].tolist()
        ended = tokenizer.eos_token_id in ids
        new = ids[: ids.index(tokenizer.eos_token_id) + 1] if ended else ids
        if gaps:
            text = tokenizer.decode(given + new, skip_special_tokens=True)
        else:
            text = prompt + tokenizer.decode(new, skip_special_tokens=True)
        stories.append(Story(prompt, text, seed, len(new) + gaps, ended))
    return Batch(stories, written.num_forward_passes)
