"""OpenAI's own client, which `make` keeps aside: both arms, whole answers, streams, drafts and errors."""

import sys
from pathlib import Path

import pytest

ASIDE = Path(sys.prefix) / "openai"


@pytest.fixture(scope="module")
def openai():
    if not (ASIDE / "openai").is_dir():
        pytest.skip("OpenAI's client is not installed: make test")
    sys.path.append(str(ASIDE))
    try:
        yield pytest.importorskip("openai")
    finally:
        sys.path.remove(str(ASIDE))


@pytest.fixture(scope="module")
def client_of(openai, servers):
    clients = {}

    def of(kind: str):
        if kind not in clients:
            clients[kind] = openai.OpenAI(base_url=f"{servers(kind).url}/v1", api_key="any", max_retries=0, timeout=60)
        return clients[kind]

    yield of
    for client in clients.values():
        client.close()


@pytest.mark.parametrize("kind", ["ar", "masked"])
def test_completions(client_of, kind):
    client = client_of(kind)
    assert [one.id for one in client.models.list()] == ["tiny"]
    request = {"model": "tiny", "prompt": "The cat", "max_tokens": 8, "seed": 1, "n": 2, "temperature": 0.9}
    whole = client.completions.create(**request)
    assert len(whole.choices) == 2
    parts = list(client.completions.create(**request, stream=True))
    for i, choice in enumerate(whole.choices):
        assert "".join(part.choices[0].text for part in parts if part.choices[0].index == i) == choice.text
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


@pytest.mark.parametrize("kind", ["ar", "masked"])
def test_chats(client_of, kind):
    client = client_of(kind)
    request = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "seed": 1}
    whole = client.chat.completions.create(**request)
    stream = client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True})
    *parts, last = list(stream)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole.choices[0].message.content
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert parts[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_drafts_and_settings(client_of):
    request = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "seed": 1}
    extra = {"stream_drafts": True, "sampler": "confidence", "num_diffusion_steps": 4}
    stream = client_of("masked").chat.completions.create(**request, stream=True, extra_body=extra)
    choices = [part.choices[0] for part in stream]
    drafts = [choice.draft["text"] for choice in choices if hasattr(choice, "draft")]
    assert drafts[-1] == "".join(choice.delta.content or "" for choice in choices)


def test_errors(openai, client_of):
    client = client_of("masked")
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'") as error:
        client.completions.create(model="other", prompt="x")
    assert error.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="sampler='nucleus'") as error:
        client.completions.create(model="tiny", prompt="x", extra_body={"sampler": "nucleus"})
    assert error.value.param == "sampler"
    assert error.value.type == "invalid_request_error"
