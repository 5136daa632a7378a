"""What a newcomer sees within seconds: a story out of masks, gaps filled, and the twin's story beside it."""

from collections.abc import Callable
from typing import Any

import torch

from arche_mdlm.studies.engine.pair import Arm
from arche_mdlm.training.models.arms import AUTOREGRESSIVE

START = "Once upon a time, there was a little"
GAPS = (
    "Lily was sad because [MASK] [MASK] [MASK] [MASK]. Her mom gave her a hug.",
    "Tom had a [MASK] dog. The dog liked to [MASK] in the park.",
    "One day, Ben found a [MASK] [MASK] under the tree. He took it home.",
)
HOLE = "▒"
_STEPS, _TOKENS = 64, 60


def show_first(arms: dict[str, Arm], temperature: float, show: Callable[[str], None]) -> None:
    """Show a short story as it is written from masks, two gaps filled, and a story of the twin, by `show`.

    Args:
        arms: the pair, by label.
        temperature: of all texts.
    """
    mdlm, tokenizer = arms["MDLM"].load()
    room = mdlm.config.max_position_embeddings - len(tokenizer(START)["input_ids"])
    length = {"max_new_tokens": min(_TOKENS, room), "temperature": temperature, "do_sample": True}
    show("=== MDLM fills masks, in any order ===")
    history = _generate(
        mdlm, tokenizer, START, length | {"num_diffusion_steps": _STEPS, "output_history": True}
    ).history
    for part in (4, 2, 4 / 3, 1):
        show(f"\n{with_holes(history[min(len(history), int(_STEPS / part)) - 1][0].tolist(), tokenizer)}")
    show("\n=== so it can fill gaps in a text ===")
    for text in gaps_that_fit(mdlm, tokenizer)[:2]:
        show(f"\n{text.replace('[MASK]', HOLE)}\n-> {fill(mdlm, tokenizer, text, temperature)}")
    twin, tokenizer = arms["AR"].load()
    ids = AUTOREGRESSIVE.generate(twin, _encoded(twin, tokenizer, START), [0], length | {"top_k": 0}).sequences
    show("\n=== AR, its twin, writes from left to right ===")
    show(f"\n{tokenizer.decode(ids[0], skip_special_tokens=True)}\n")


def fill(model: Any, tokenizer: Any, text: str, temperature: float, seed: int = 0) -> str:
    """A text with its "[MASK]"s filled, a token each."""
    text = text.replace("[MASK]", tokenizer.mask_token)
    options = {"max_new_tokens": 0, "temperature": temperature, "do_sample": True, "num_diffusion_steps": _STEPS}
    ids = _generate(model, tokenizer, text, options, seed).sequences[0]
    return tokenizer.decode(ids, skip_special_tokens=True)


def gaps_that_fit(model: Any, tokenizer: Any) -> list[str]:
    """Those of `GAPS` that the model's context holds."""
    context = model.config.max_position_embeddings
    return [text for text in GAPS if len(tokenizer(text, verbose=False)["input_ids"]) <= context]


def with_holes(ids: list[int], tokenizer: Any) -> str:
    """A canvas as text, a hole for each mask, up to its end."""
    if tokenizer.eos_token_id in ids:
        ids = ids[: ids.index(tokenizer.eos_token_id)]
    parts: list[str] = []
    written: list[int] = []
    for token in [*ids, None]:
        if token is None or token == tokenizer.mask_token_id:
            parts += [tokenizer.decode(written, skip_special_tokens=True), "" if token is None else HOLE]
            written = []
        else:
            written.append(token)
    return "".join(parts).strip()


def _generate(model: Any, tokenizer: Any, text: str, options: dict, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    inputs = _encoded(model, tokenizer, text)
    return model.generate(**inputs, generator=generator, return_dict_in_generate=True, **options)


def _encoded(model: Any, tokenizer: Any, text: str) -> dict[str, torch.Tensor]:
    inputs = tokenizer(text, return_tensors="pt").to(model.device)
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}
