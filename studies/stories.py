"""Stories written by either arm: the same prompts, the same settings, one seed a story."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from tqdm.auto import tqdm

from arche_mdlm.training.loading import is_diffusion


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
    model,
    tokenizer,
    prompts: Sequence[str],
    *,
    seed: int = 0,
    batch_size: int = 50,
    description: str = "writing",
    **generate_kwargs,
) -> Stories:
    """One story for each prompt ("" is the empty prompt: a BOS).

    The diffusion arm gives every story a stream of its own, seeded by (seed, index): `batch_size` changes nothing.
    transformers' AR sampling has one stream a batch, so there a story depends on its batch too.
    """
    model.eval()
    stories, start = [], time.perf_counter()
    with tqdm(total=len(prompts), desc=description, unit="story") as bar:
        for first in range(0, len(prompts), batch_size):
            part = list(prompts[first : first + batch_size])
            seeds = [seed * 1_000_003 + first + i for i in range(len(part))]
            stories += _write_batch(model, tokenizer, part, seeds, generate_kwargs)
            bar.update(len(part))
    return Stories(stories, time.perf_counter() - start)


def _write_batch(model, tokenizer, prompts: list[str], seeds: list[int], generate_kwargs: dict) -> list[Story]:
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(model.device)
    width = inputs["input_ids"].shape[1]
    if is_diffusion(model):
        generate_kwargs = generate_kwargs | {"generator": [torch.Generator().manual_seed(s) for s in seeds]}
    else:
        torch.manual_seed(seeds[0])
    sequences = model.generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], **generate_kwargs
    )
    stories = []
    for prompt, ids, own_seed in zip(prompts, sequences[:, width:].tolist(), seeds, strict=True):
        end = ids.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in ids else len(ids)
        text = prompt + tokenizer.decode(ids[:end], skip_special_tokens=True)
        stories.append(Story(prompt, text, own_seed, end, tokenizer.eos_token_id in ids))
    return stories
