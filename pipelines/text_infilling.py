"""`pipeline("text-infilling")`: fills the gaps of a text and keeps the rest.

This file does not import the library: `TextInfillingPipeline.save_pretrained` copies it beside the weights, and
`pipeline("text-infilling", model=folder, trust_remote_code=True)` then works where the library is not installed.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

TASK = "text-infilling"
_LENGTHS = ("max_new_tokens", "max_length")
_NO_SPACE_BEFORE = ",.;:!?)]}%…"


@dataclass(frozen=True)
class GappedText:
    """A text cut at its gaps: `pieces[0]`, gap of `num_masks[0]` masks, `pieces[1]`, ..., `pieces[-1]`."""

    pieces: tuple[str, ...]
    num_masks: tuple[int, ...]

    @classmethod
    def parse(cls, text: str, mask_token: str) -> "GappedText":
        """Cut `text` at `[MASK]`, `[MASK:20]` and `mask_token`; ValueError without a gap, or for an invalid size."""
        if not isinstance(text, str):
            raise ValueError(f"text={text!r} is a {type(text).__name__}; give a str, or a list of them")
        pattern = re.compile(rf"\[MASK(?::(?P<size>[^\]]*))?\]|{re.escape(mask_token)}")
        gaps = list(pattern.finditer(text))
        if not gaps:
            shown = text if len(text) <= 80 else text[:77] + "..."
            raise ValueError(
                f"text={shown!r} has no gaps to fill: mark gaps with [MASK], or [MASK:20] for twenty tokens"
            )
        for gap in gaps:
            if gap["size"] is not None and not (gap["size"].isascii() and gap["size"].isdigit() and int(gap["size"])):
                raise ValueError(
                    f"{gap[0]} in the text is not a gap: [MASK:N] needs a whole number N of at least 1 tokens"
                )
        starts = [0, *(gap.end() for gap in gaps)]
        ends = [*(gap.start() for gap in gaps), len(text)]
        pieces = tuple(text[start:end] for start, end in zip(starts, ends, strict=True))
        return cls(pieces, tuple(int(gap["size"] or 1) for gap in gaps))

    def masked(self, mask_token: str) -> str:
        """The text with each gap written out as mask tokens."""
        return self.join([mask_token * number for number in self.num_masks])

    def join(self, infills: list[str]) -> str:
        """The text with each gap filled."""
        return self.pieces[0] + "".join(infill + piece for infill, piece in zip(infills, self.pieces[1:], strict=True))


class TextInfillingPipeline(Pipeline):
    """Fills `[MASK]` (one token) and `[MASK:20]` (twenty) in a text, seeing both sides of each gap.

        pipe("Once upon a time there was [MASK:8]. She was happy.", num_diffusion_steps=32)
        -> [{"generated_text": "Once upon a time there was ...", "infills": [" a little girl ..."]}]

    One text gives a list of `num_return_sequences` dicts, a list of texts a list of such lists. `generated_text` is the
    text with its gaps filled, `infills` what was put into each. A gap may come out shorter than its masks: an end of
    text or a pad is a token too, and shows as nothing. Where the mask takes the space before it (`lstrip`, as in our
    tokenizers), the space in the text stands and the infill comes without one; an infill that begins with a comma, say, stands right
    behind the text.

    All options of the model's `generate` pass through, at call or at construction: `num_diffusion_steps`, `sampler`,
    `temperature`, `do_sample`, `generator`, ... By default only the gaps are filled (`max_new_tokens=0`); with more, or
    with `max_length`, the text is continued as well. A `torch.Generator` gives the same texts for every `batch_size`.

    Raises:
        ValueError: a text without a gap, a gap of no size, a text longer than the context, a tokenizer without a mask
            token, or a model that fills no masks.
    """

    _pipeline_calls_generate = True
    # transformers declares these as None.
    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_tokenizer = True  # type: ignore[assignment]

    tokenizer: Any  # checked below
    model: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        mask = getattr(self.tokenizer, "mask_token_id", None)
        if mask is None:
            name = getattr(self.tokenizer, "name_or_path", None)
            raise ValueError(f"tokenizer={name!r} has no mask_token: {TASK} needs one, e.g. '[MASK]'")
        expected = getattr(self.model.config, "mask_token_id", None)
        if expected is None:
            raise ValueError(
                f"model={self.model.name_or_path!r} of type {self.model.config.model_type!r} cannot fill masks: "
                f"{TASK} needs a masked diffusion model (type 'mdlm')"
            )
        if mask != expected:
            raise ValueError(f"tokenizer.mask_token_id={mask} is not the model's mask_token_id={expected}")

    def _sanitize_parameters(self, **generate_kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, generate_kwargs, {}

    def preprocess(self, text: str) -> dict[str, Any]:  # type: ignore[override]  # without parameters
        """The text's token ids and mask, each (1, L), with a mask token for each token of a gap."""
        gapped = GappedText.parse(text, self.tokenizer.mask_token)
        inputs = self.tokenizer(gapped.masked(self.tokenizer.mask_token), return_tensors="pt")
        length, context = inputs["input_ids"].shape[1], self.model.config.max_position_embeddings
        if length > context:
            raise ValueError(
                f"the text has {length} tokens ({sum(gapped.num_masks)} of them masks), more than the model's context "
                f"of {context}"
            )
        return {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "gapped": [gapped]}

    def _forward(  # type: ignore[override]  # plain dicts, as most pipelines have them
        self, model_inputs: dict[str, Any], **generate_kwargs: Any
    ) -> dict[str, Any]:
        input_ids, attention_mask = model_inputs["input_ids"], model_inputs["attention_mask"]
        generate_kwargs = self._prepare_generate_kwargs(generate_kwargs)
        config = generate_kwargs.get("generation_config")
        if all(generate_kwargs.get(name) is None and getattr(config, name, None) is None for name in _LENGTHS):
            generate_kwargs["max_new_tokens"] = 0
        output = self.model.generate(input_ids=input_ids, attention_mask=attention_mask, **generate_kwargs)
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        return {
            "sequences": sequences.reshape(len(input_ids), -1, sequences.shape[-1]),
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "gapped": model_inputs["gapped"],
        }

    def postprocess(self, model_outputs: dict[str, Any]) -> list[dict[str, Any]]:  # type: ignore[override]
        """A dict for each generated text; see the class."""
        (gapped,) = model_outputs["gapped"]
        real = model_outputs["attention_mask"][0].bool()
        # Behind the given tokens follows what the model has written; padding in front of them is cut.
        first = int(real.nonzero()[0])
        end = int(real.nonzero()[-1]) + 1
        masks = (model_outputs["input_ids"][0] == self.tokenizer.mask_token_id) & real
        runs = torch.split(masks.nonzero()[:, 0], list(gapped.num_masks))
        records = []
        for ids in model_outputs["sequences"][0]:
            infills = [self._decode(ids[first:], int(run[0]) - first, int(run[-1]) + 1 - first) for run in runs]
            pieces = list(gapped.pieces)
            for number, infill in enumerate(infills):
                pieces[number], infills[number] = self._with_one_space(pieces[number], infill)
            width = model_outputs["input_ids"].shape[1]
            written = torch.cat([ids[first:end], ids[width:]])
            tail = self._decode(written, end - first, len(written))
            records.append(
                {"generated_text": replace(gapped, pieces=tuple(pieces)).join(infills) + tail, "infills": infills}
            )
        return records

    def _decode(self, ids: torch.Tensor, start: int, stop: int) -> str:
        """Text of `ids[start:stop]`, decoded in context: alone, some tokenizers drop a leading space."""
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        before = self.tokenizer.decode(ids[:start], **options)
        whole = self.tokenizer.decode(ids[:stop], **options)
        return whole[len(before) :] if whole.startswith(before) else self.tokenizer.decode(ids[start:stop], **options)

    def _with_one_space(self, before: str, infill: str) -> tuple[str, str]:
        """The text before a gap and what fills it, with one space between them, or none before a comma; where the mask takes
        the space in front of it (`lstrip`)."""
        mask = self.tokenizer.added_tokens_decoder.get(self.tokenizer.mask_token_id)
        if not (getattr(mask, "lstrip", False) and before.endswith(" ") and infill):
            return before, infill
        if infill[0] in _NO_SPACE_BEFORE:
            return before.removesuffix(" "), infill
        return before, infill.removeprefix(" ")


def register(default_model: str) -> None:
    """Make the task known to `transformers.pipeline`, with the model it takes where none is given."""
    default = {"model": (default_model, "main")}
    PIPELINE_REGISTRY.register_pipeline(
        TASK, pipeline_class=TextInfillingPipeline, pt_model=AutoModelForCausalLM, default=default, type="text"
    )
    # `save_pretrained` writes this beside the weights, where a default model (perhaps a local path) does not belong.
    task = {key: value for key, value in PIPELINE_REGISTRY.supported_tasks[TASK].items() if key != "default"}
    TextInfillingPipeline._registered_impl = {TASK: task}  # type: ignore[attr-defined]  # what `register_pipeline` sets
