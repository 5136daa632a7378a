"""What cannot be done is refused in OpenAI's form, before it waits; limits hold; nothing a client does stops the server."""

import asyncio
import json
import logging

import httpx
import pytest
from held_servers import asks, connect, wait_for
from served_models import KINDS

PROMPT = "Once upon a time"


def body(**changes) -> dict:
    return {"model": "tiny", "prompt": PROMPT, "max_tokens": 8, "seed": 3, **changes}


# Changes of a request, the status, the field and a part of the message.
WRONG = [
    ({"model": "gpt-4"}, 404, "model", "there is no model 'gpt-4'; this server has 'tiny'"),
    ({"model": None}, 400, "model", "model is missing"),
    ({"prompt": None}, 400, "prompt", "prompt is missing"),
    ({"prompt": 7}, 400, "prompt", "prompt=7"),
    ({"prompt": []}, 400, "prompt", "empty list"),
    ({"prompt": [[5, 10**9]]}, 400, "prompt", "the token 1000000000"),
    ({"prompt": [[5], []]}, 400, "prompt", "no token"),
    ({"prompt": ["a", 7]}, 400, "prompt", "prompt="),
    ({"prompt": "cat " * 60}, 400, "prompt", "do not fit the model's context of 48 tokens"),
    ({"prompt": "cat " * 60, "max_tokens": None}, 400, "prompt", "do not fit the model's context of 48 tokens"),
    ({"max_tokens": -1}, 400, "max_tokens", "greater than or equal to 0"),
    ({"max_tokens": 0}, 400, "max_tokens", "is only possible for a prompt with masks"),
    ({"max_tokens": 47}, 400, "prompt", "do not fit the model's context"),
    ({"max_tokens": 10**30}, 400, "max_tokens", "max_tokens="),
    ({"max_tokens": "8"}, 400, "max_tokens", "valid integer"),
    ({"max_tokens": 1.5}, 400, "max_tokens", "valid integer"),
    ({"n": 0}, 400, "n", "greater than or equal to 1"),
    ({"n": 10**6}, 400, "n", "a request may ask for 32"),
    ({"temperature": -1}, 400, "temperature", "greater than or equal to 0"),
    ({"temperature": 1e-9}, 400, "temperature", "must be at least 0.001"),
    ({"temperature": True}, 400, "temperature", "valid number"),
    ({"top_p": 0}, 400, "top_p", "greater than 0"),
    ({"seed": "x"}, 400, "seed", "valid integer"),
    ({"stop": [""]}, 400, "stop", "none empty"),
    ({"stop": ["a"] * 99}, 400, "stop", "at most 16"),
    ({"logprobs": 1}, 400, "logprobs", "not supported"),
    ({"logit_bias": {"5": 1}}, 400, "logit_bias", "not supported"),
    ({"suffix": "end"}, 400, "suffix", "not supported"),
    ({"stream_drafts": True}, 400, "stream_drafts", "needs stream=true"),
    ({"sampler": "nucleus"}, 400, "sampler", "sampler='nucleus'"),
    ({"sampler": "gibbs"}, 400, "sampler", "gibbs"),
    ({"threshold": 0.5}, 400, "threshold", "does not work with sampler='ancestral'"),
    ({"sampler": "threshold", "threshold": 7.0}, 400, "threshold", "threshold"),
    ({"num_diffusion_steps": 0}, 400, "num_diffusion_steps", "greater than or equal to 1"),
    ({"num_diffusion_steps": 10**9}, 400, "num_diffusion_steps", "this server allows 4096"),
    ({"block_length": 9}, 400, None, "block_length=9 is longer than the 8 positions"),
    ({"num_diffusion_step": 8}, 400, "num_diffusion_step", "did you mean 'num_diffusion_steps'?"),
    ({"output_history": True}, 400, "output_history", "there is no field"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "status", "param", "message"), WRONG, ids=[json.dumps(w[0])[:50] for w in WRONG])
def test_a_wrong_request_is_refused(servers, changes, status, param, message):
    answer = servers("masked").post(body(**changes))
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (answer.status_code, error["param"]) == (status, param), error
    assert message in error["message"]
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    "field", [{"sampler": "ancestral"}, {"num_diffusion_steps": 4}, {"stream_drafts": True, "stream": True}]
)
def test_settings_of_diffusion_are_refused_by_the_other_arm(servers, field):
    answer = servers("ar").post(body(**field))
    assert answer.status_code == 400
    assert "autoregressive" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("kind", "neutral"),
    [("ar", {"logprobs": None, "frequency_penalty": 0, "presence_penalty": 0.0, "user": "me", "best_of": 1, "logit_bias": {}}),
     ("masked", {"suffix": None, "metadata": {"a": "b"}, "store": False})],
)  # fmt: skip
def test_fields_that_ask_for_nothing_are_taken(servers, kind, neutral):
    assert servers(kind).post(body(**neutral)).status_code == 200


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_refuses_an_unknown_sampler(servers, kind):
    answer = servers(kind).post(body(sampler="nucleus"))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "sampler"


@pytest.mark.parametrize(
    "content",
    [b"{no json", b"", b"[1]", b"null", b'{"temperature": NaN}', b"\xff\xfe", b"[" * 100000, b'"' + b"x" * 100],
)
def test_what_is_no_json_object_is_refused(servers, content):
    answer = httpx.post(f"{servers('masked').url}/v1/completions", content=content, timeout=60)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_unknown_paths_and_methods(servers):
    url = servers("masked").url
    assert httpx.get(f"{url}/v1/nothing").json()["error"]["code"] == "not_found"
    assert httpx.get(f"{url}/v1/completions").status_code == 405
    assert httpx.get(f"{url}/v1/models/other").json()["error"]["code"] == "model_not_found"


def test_a_large_body_is_refused_before_it_is_read(servers):
    """The length alone is sent: an answer comes although no byte of the body does."""
    with connect(servers("masked")) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
        assert raw.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_large_body_without_a_length_is_refused_in_the_middle(servers):
    sent = 0
    with connect(servers("masked")) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        raw.settimeout(0.02)
        answer = b""
        part = b"10000\r\n" + b" " * 65536 + b"\r\n"
        while sent < 100_000_000 and not answer:
            try:
                raw.sendall(part)
                sent += 65536
            except (TimeoutError, OSError):
                break
            try:
                answer = raw.recv(65536)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert sent < 20_000_000


def test_fifty_at_once(serve):
    """All are answered with the text that each has alone, in far fewer batches."""
    running = serve("masked", queue_length=64)

    async def ask() -> list:
        async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=50)) as client:
            asked = [client.post(f"{running.url}/v1/completions", json=body(seed=i)) for i in range(50)]
            return [answer.json() for answer in await asyncio.gather(*asked)]

    answers = asyncio.run(ask())
    texts = [answer["choices"][0]["text"] for answer in answers]
    assert len(set(texts)) > 40
    assert texts[7] == running.post(body(seed=7)).json()["choices"][0]["text"]
    registry = running.service.engine.measures.registry
    assert registry.get_sample_value("arche_mdlm_batch_rows_sum") == 51
    assert registry.get_sample_value("arche_mdlm_batch_rows_count") < 30


def test_a_full_queue_says_when_to_come_back(held):
    running, writer = held()
    engine = running.service.engine
    clients = [asks(running, body())]
    writer.began.wait(30)
    clients += [asks(running, body(seed=i)) for i in (1, 2)]
    wait_for(lambda: len(engine.waiting) == 2)
    answer = running.post(body())
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "queue_full"
    assert int(answer.headers["retry-after"]) >= 1
    writer.go.set()
    for raw in clients:
        assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")
        raw.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_dropped(held, stream):
    """From the queue, and from the batch being written: the others go on."""
    running, writer = held()
    engine = running.service.engine
    first = asks(running, body(stream=stream))
    writer.began.wait(30)
    second, third = asks(running, body(seed=1, stream=stream)), asks(running, body(seed=2))
    wait_for(lambda: len(engine.waiting) == 2)
    second.close()
    wait_for(lambda: len(engine.waiting) == 1)
    first.close()  # its batch ends without it
    wait_for(lambda: not engine.waiting)
    writer.go.set()
    assert b"200 OK" in third.recv(65536)
    third.close()
    wait_for(lambda: running.service.engine.measures.registry.get_sample_value("arche_mdlm_clients_left_total") == 2)


def test_a_late_text_is_given_up(held):
    running, _ = held(request_timeout=0.2)
    answer = running.post(body())
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "timeout"
    wait_for(running.service.engine.is_idle)


def test_a_failure_of_the_model_is_told_and_the_next_request_works(serve, caplog):
    running = serve("masked")
    engine = running.service.engine
    writer = engine.writer

    class Broken:
        def write(self, rows):
            raise KeyError("secret")

    engine.writer = Broken()
    with caplog.at_level(logging.CRITICAL):
        answer = running.post(body())
    assert answer.status_code == 500
    assert "secret" not in answer.text
    lines = [line for line in running.post(body(stream=True)).text.split("\n\n") if line]
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "internal_error"
    engine.writer = writer
    assert running.post(body()).status_code == 200


def test_too_little_memory_halves_the_batch(serve):
    running = serve("masked", batch_size="auto")
    engine = running.service.engine
    writer, sizes = engine.writer, []

    class Small:
        def write(self, rows):
            sizes.append(len(rows))
            if len(rows) > 2:
                raise RuntimeError("CUDA out of memory. Tried to allocate")
            writer.write(rows)

    engine.writer = Small()
    answer = running.post(body(n=4))
    assert sizes == [4, 2, 2]
    engine.writer = writer
    assert answer.json()["choices"] == running.post(body(n=4)).json()["choices"]


def test_a_key_is_asked_for(serve):
    running = serve("masked", api_key="sesame")
    assert running.post(body()).status_code == 401
    assert running.post(body(), headers={"Authorization": "Bearer wrong"}).json()["error"]["code"] == "invalid_api_key"
    assert running.post(body(), headers={"Authorization": "Bearer sesame"}).status_code == 200
    assert httpx.get(f"{running.url}/v1/models").status_code == 401
    assert httpx.get(f"{running.url}/health").status_code == 200


def test_limits_of_a_server(serve):
    from arche_mdlm.serving.served_model import Limits

    running = serve("masked", limits=Limits(max_tokens=5, max_choices=2, max_forwards=10), max_body_bytes=300)
    assert "is more than the maximum of this server, 5" in running.post(body(max_tokens=6)).json()["error"]["message"]
    assert running.post(body(max_tokens=5, n=3)).status_code == 400
    assert running.post(body(max_tokens=5, num_diffusion_steps=11)).status_code == 400
    assert running.post(body(prompt="x" * 300)).status_code == 413
    answer = running.post({"model": "tiny", "prompt": PROMPT, "seed": 0}).json()
    assert answer["usage"]["completion_tokens"] <= 5
