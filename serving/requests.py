"""What a client may ask for: OpenAI's fields, and those of `generate` beside them."""

import difflib
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from arche_mdlm.serving.errors import ApiError, bad_request

# Fields of OpenAI's that change no text here.
_IGNORED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}  # fmt: skip
# Fields of OpenAI's that are not supported, with the values that ask for nothing.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "best_of": (1,), "suffix": ("",), "logprobs": (False,), "top_logprobs": (0,), "logit_bias": ({},), "frequency_penalty": (0,),
    "presence_penalty": (0,), **{f"{name}s": ([],) for name in ("tool", "function")}, "tool_choice": ("none",), "parallel_tool_calls": (True, False),
    "function_call": ("none",), "response_format": ({"type": "text"},), "modalities": (["text"],), "audio": (), "prediction": (),
    "reasoning_effort": ("none",), "web_search_options": (), "verbosity": (),
}  # fmt: skip
_BIGGEST = 2**63 - 1


class StreamOptions(BaseModel):
    """OpenAI's `stream_options`."""

    model_config = ConfigDict(strict=True, extra="forbid")
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Sampling(BaseModel):
    """How a text is drawn. None: the checkpoint's own setting."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    # both arms
    temperature: float | None = Field(None, ge=0, le=1000)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=_BIGGEST)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=1000)
    min_new_tokens: int | None = Field(None, ge=0, le=_BIGGEST)
    do_sample: bool | None = None
    # diffusion models only
    sampler: str | None = None
    num_diffusion_steps: int | None = Field(None, ge=1, le=_BIGGEST)
    block_length: int | None = Field(None, ge=1, le=_BIGGEST)
    temperature_end: float | None = None
    threshold: float | None = None
    threshold_factor: float | None = None
    entropy_bound: float | None = None
    remasking: str | None = None
    remasking_rate: float | None = None
    kappa: float | None = None
    corrector_steps: int | None = Field(None, ge=0, le=_BIGGEST)
    greedy_tail: bool | None = None
    prefix_cache: bool | None = None
    guidance_scale: float | None = Field(None, ge=0, le=1000)
    top_h: float | None = Field(None, gt=0, le=1)
    typical_p: float | None = Field(None, gt=0, le=1)
    epsilon_cutoff: float | None = Field(None, ge=0, lt=1)
    eta_cutoff: float | None = Field(None, ge=0, lt=1)


class Request(Sampling):
    """What both endpoints take."""

    model: str
    max_tokens: int | None = Field(None, ge=0, le=_BIGGEST)
    n: int | None = Field(None, ge=1, le=_BIGGEST)
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=-_BIGGEST - 1, le=_BIGGEST)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stream_drafts: bool | None = None

    def sampling(self) -> dict[str, Any]:
        """The sampling settings that are given."""
        return self.model_dump(include=set(Sampling.model_fields), exclude_none=True)

    def stops(self) -> tuple[str, ...]:
        """The stop strings, checked: at most 16, none empty."""
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stops) > 16 or "" in stops:
            raise bad_request(f"stop has {len(stops)} strings: at most 16 are allowed, none empty", "stop")
        return stops


class CompletionRequest(Request):
    """`/v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]
    echo: bool | None = None


class Message(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(strict=True, extra="allow")
    role: str
    content: str | list[dict[str, Any]] | None = None

    def plain(self) -> dict[str, Any]:
        """As a chat template wants it: the content is one string."""
        content = self.content or ""
        if isinstance(content, list):
            wrong = [part.get("type") for part in content if part.get("type") != "text"]
            if wrong or not all(isinstance(part.get("text"), str) for part in content):
                raise bad_request(
                    f"messages: content of the type {wrong[0] if wrong else 'text'!r}; only text is taken", "messages"
                )
            content = "".join(part["text"] for part in content)
        return {"role": self.role, "content": content}


class ChatRequest(Request):
    """`/v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=0, le=_BIGGEST)


Body = TypeVar("Body", bound=Request)


def parse(kind: type[Body], body: Any) -> Body:
    """The request in a JSON value; ApiError that names the field, its value and what is allowed."""
    if not isinstance(body, dict):
        raise bad_request(f"the body must be a JSON object, not {type(body).__name__}")
    given = {}
    for name, value in body.items():
        if name in _IGNORED or value is None:
            continue
        if name in _REFUSED:
            if not any(value == neutral and type(value) is type(neutral) for neutral in _neutral(name)):
                raise bad_request(
                    f"{name}={_short(value)} is not supported: leave it out", name, "unsupported_parameter"
                )
            continue
        if name not in kind.model_fields:
            near = difflib.get_close_matches(name, kind.model_fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise bad_request(f"there is no field {_short(name)}{hint}", name[:100], "unknown_parameter")
        given[name] = value
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _explain(error) from None


def _neutral(name: str) -> list[Any]:
    """The neutral values, numbers also as float."""
    return [*_REFUSED[name], *(float(one) for one in _REFUSED[name] if type(one) is int)]


def _explain(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else None
    if first["type"] == "missing":
        return bad_request(f"{name} is missing", name, "missing_required_parameter")
    return bad_request(f"{name}={_short(first['input'])}: {first['msg']}", name, "invalid_value")


def _short(value: Any) -> str:
    line = " ".join(repr(value).split())
    return line if len(line) <= 60 else f"{line[:57]}..."
