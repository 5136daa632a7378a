"""The model that a server has: its texts as token ids, and a request as rows."""

import secrets
import threading
from dataclasses import dataclass
from functools import partial
from typing import Any

from arche_mdlm.family_mdlm import family_of
from arche_mdlm.samplers_mdlm import available_samplers
from arche_mdlm.serving import settings as chosen
from arche_mdlm.serving.errors import ApiError, bad_request
from arche_mdlm.serving.requests import ChatRequest, CompletionRequest, Request
from arche_mdlm.serving.row import Row
from arche_mdlm.training.models.arms import arm_of
from arche_mdlm.training.models.loading import context_length
from arche_mdlm.writing.stories import own_seed


@dataclass(frozen=True)
class Limits:
    """What a request may ask for at most."""

    max_tokens: int | None = None  # of a text; None: what the context holds
    max_choices: int = 32  # texts of a request
    max_forwards: int = 4096  # of a diffusion model, for a text


class ServedModel:
    """A model of either arm, and the name that it is served by."""

    def __init__(self, model: Any, tokenizer: Any, name: str, limits: Limits) -> None:
        self.model, self.tokenizer, self.name, self.limits = model.eval(), tokenizer, name, limits
        self.arm = arm_of(model)
        eos = model.generation_config.eos_token_id
        eos = tokenizer.eos_token_id if eos is None else eos
        self.eos_token_ids = tuple(eos) if isinstance(eos, (list, tuple)) else () if eos is None else (eos,)
        self.context = model.config.max_position_embeddings
        self._tokenizing = threading.Lock()  # a tokenizer of transformers is changed by a call

    def describe(self) -> dict[str, Any]:
        """The object of `/v1/models`, with the arm, the context and, of a diffusion model, the samplers."""
        about: dict[str, Any] = {"id": self.name, "object": "model", "created": 0, "owned_by": "arche-mdlm"}
        about |= {"arm": self.arm.name, "family": self.arm.family(self.model.config), "context_length": self.context}
        if self.arm.denoises:
            family = family_of(self.model.config)
            about["samplers"] = list(family.order.samplers or available_samplers(family.corruption.name))
        return about

    def rows(self, request: Request) -> list[Row]:
        """The texts that a request asks for, prompt by prompt; ApiError for what cannot be written.

        Text i of a seeded request has the seed of text i of `arche-mdlm generate --seed`.
        """
        if request.model != self.name:
            raise ApiError(
                404, f"there is no model {request.model[:200]!r}; this server has {self.name!r}", param="model", code="model_not_found"
            )  # fmt: skip
        if request.stream_drafts and not (request.stream and self.arm.denoises):
            why = "needs stream=true" if self.arm.denoises else "is for diffusion models; this model is autoregressive"
            raise bad_request(f"stream_drafts {why}", "stream_drafts")
        settings = chosen.settings_of(self.model, self.arm.denoises, request.sampling())
        sampler = chosen.sampler_of(self.model, settings) if self.arm.denoises else None
        prompts = self._prompts(request)
        count = request.n or 1
        if len(prompts) * count > self.limits.max_choices:
            raise bad_request(
                f"{len(prompts)} prompts and n={count} are {len(prompts) * count} texts; a request may ask for {self.limits.max_choices}",
                "n",
            )
        seed = secrets.randbits(62) if request.seed is None else request.seed
        makers = [self._row(request, settings, ids, text) for ids, text in prompts]
        rows = [make(seed=own_seed(seed, i * count + j) % 2**63) for i, make in enumerate(makers) for j in range(count)]
        if sampler is not None:
            forwards = max(chosen.forwards_at_most(self.model, settings, row.max_new_tokens) for row in rows)
            if forwards > self.limits.max_forwards:
                raise bad_request(
                    f"these settings take up to {forwards} forwards of the model; this server allows {self.limits.max_forwards}",
                    "num_diffusion_steps",
                )
        return rows

    def _row(self, request: Request, settings: dict[str, Any], prompt: list[int], text: str) -> Any:
        """What makes a row of a prompt, once it has a seed."""
        mask = self.tokenizer.mask_token_id
        has_gaps = mask is not None and mask in prompt
        if has_gaps:
            self._check_gaps(request)
        new, options = self._length(request, len(prompt), has_gaps)
        if self.arm.denoises:
            chosen.check_canvas(self.model, settings, prompt, new)
        return partial(
            Row, self.tokenizer, prompt, options=chosen.as_key({**settings, **options}), max_new_tokens=new,
            eos_token_ids=self.eos_token_ids, stop=request.stops(), mask_token_id=mask if has_gaps else None,
            head=text if getattr(request, "echo", None) and not has_gaps else "", wants_drafts=bool(request.stream_drafts),
        )  # fmt: skip

    def _check_gaps(self, request: Request) -> None:
        if not self.arm.denoises:
            raise bad_request(
                "the prompt contains a mask, but this model is autoregressive and cannot fill masks", "prompt"
            )
        if not getattr(request, "echo", None):
            raise bad_request(
                'the prompt contains masks, so the answer is the whole text: set "echo": true in a request to /v1/completions', "echo"
            )  # fmt: skip
        if request.stop:
            raise bad_request("stop does not work with masks in the prompt", "stop")

    def _length(self, request: Request, prompt: int, has_gaps: bool) -> tuple[int, dict[str, int]]:
        """New tokens of a row, and the length as an argument of `generate`, which is part of what a batch shares."""
        asked = request.max_tokens
        name = "max_tokens"
        if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
            asked, name = request.max_completion_tokens, "max_completion_tokens"
        most = self.limits.max_tokens
        if asked is not None and most is not None and asked > most:
            raise bad_request(f"{name}={asked} is more than the maximum of this server, {most}", name)
        if asked == 0 and not has_gaps:
            raise bad_request(f"{name}=0 is only possible for a prompt with masks", name)
        endless = self.arm.denoises and family_of(self.model.config).order.any_length
        room = self.context - prompt
        if (room < (asked or 0) and not endless) or (room < 0 and not endless):
            wanted = f" and {name}={asked}" if asked else ""
            raise bad_request(
                f"a prompt of {prompt} tokens{wanted} do not fit the model's context of {self.context} tokens",
                "messages" if isinstance(request, ChatRequest) else "prompt", "context_length_exceeded",
            )  # fmt: skip
        if asked is not None:
            return asked, {"max_new_tokens": asked} if self.arm.denoises else {}
        total = min(context_length(self.model), self.context)
        new = total - prompt
        if new <= 0 and not has_gaps:
            raise bad_request(
                f"a prompt of {prompt} tokens leaves no room in the default length of {total} tokens",
                "messages" if isinstance(request, ChatRequest) else "prompt", "context_length_exceeded",
            )  # fmt: skip
        if has_gaps and new < 0:
            new = 0
        if most is not None and new > most:
            return most, {"max_new_tokens": most} if self.arm.denoises else {}
        return new, {"max_length": total} if self.arm.denoises else {}

    def _prompts(self, request: Request) -> list[tuple[list[int], str]]:
        """(token ids, text) of each prompt."""
        if isinstance(request, ChatRequest):
            return [self._chat(request)]
        assert isinstance(request, CompletionRequest)
        prompt: Any = request.prompt
        if prompt == []:
            raise bad_request("prompt is an empty list", "prompt")
        many = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
        if len(many) > self.limits.max_choices:
            raise bad_request(
                f"{len(many)} prompts are more than the {self.limits.max_choices} texts of a request", "prompt"
            )
        return [self._encode(one) if isinstance(one, str) else self._own_ids(one) for one in many]

    def _encode(self, text: str, special: bool = True) -> tuple[list[int], str]:
        with self._tokenizing:
            ids = self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        if not ids:
            if self.tokenizer.bos_token_id is None:
                raise bad_request("the prompt has no tokens", "prompt")
            ids = [self.tokenizer.bos_token_id]
        return list(ids), text

    def _own_ids(self, ids: list[int]) -> tuple[list[int], str]:
        size = self.model.config.vocab_size
        wrong = [token for token in ids if not 0 <= token < size]
        if wrong or not ids:
            what = f"the token {wrong[0]}" if wrong else "no token"
            raise bad_request(f"a prompt contains {what}; tokens are numbers from 0 to {size - 1}", "prompt")
        with self._tokenizing:
            return ids, self.tokenizer.decode(ids, skip_special_tokens=True)

    def _chat(self, request: ChatRequest) -> tuple[list[int], str]:
        if not self.tokenizer.chat_template:
            raise bad_request(
                f"the tokenizer of {self.name!r} has no chat template: use /v1/completions",
                "messages",
                "no_chat_template",
            )
        messages = [message.plain() for message in request.messages]
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template may raise anything
            raise bad_request(
                f"the chat template refuses these messages: {' '.join(str(error).split())}", "messages"
            ) from error
        return self._encode(text, special=False)
