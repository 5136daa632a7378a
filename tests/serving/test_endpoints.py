"""The endpoints, asked with OpenAI's own client where it is there, and with httpx."""

import json
import time

import httpx
import pytest
from served_models import FAMILIES, KINDS

from arche_mdlm.writing.drafts import MASK

PROMPT = "Once upon a time"


def events(response: httpx.Response) -> list:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def body(**changes) -> dict:
    return {"model": "tiny", "prompt": PROMPT, "max_tokens": 12, "seed": 3, **changes}  # 8 steps of diffusion


@pytest.mark.parametrize("kind", KINDS)
def test_a_completion(servers, kind, tokenizer):
    answer = servers(kind).post(body(n=2)).json()
    assert answer["object"] == "text_completion"
    prompt = len(tokenizer(PROMPT)["input_ids"])
    written = answer["usage"]["completion_tokens"]
    assert answer["usage"] == {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["choices"][0]["text"] != answer["choices"][1]["text"]
    for choice in answer["choices"]:
        assert choice["finish_reason"] in ("stop", "length")
    if all(choice["finish_reason"] == "length" for choice in answer["choices"]):
        assert written == 24


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_does_not_depend_on_its_batch(servers, kind):
    """Nor on the padding that a longer prompt in the batch brings."""
    running = servers(kind)
    texts = [PROMPT, "The dog saw the cat and ran to the big tree.", "A"]
    registry = running.service.engine.measures.registry
    before = registry.get_sample_value("arche_mdlm_batch_rows_sum") or 0
    together = running.post(body(prompt=texts, seed=1, max_tokens=8)).json()["choices"]
    assert registry.get_sample_value("arche_mdlm_batch_rows_sum") - before == 3, "they were one batch"
    # Text i of a request has the seed of text i, whatever its prompt.
    single = [
        running.post(body(prompt=text, n=i + 1, seed=1, max_tokens=8)).json()["choices"][i]["text"]
        for i, text in enumerate(texts)
    ]
    assert [choice["text"] for choice in together] == single
    assert running.post(body(seed=2, max_tokens=8)).json()["choices"][0]["text"] != single[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_has_the_same_text(servers, kind):
    running = servers(kind)
    whole = running.post(body(n=2)).json()
    parts = events(running.post(body(n=2, stream=True, stream_options={"include_usage": True})))
    assert parts[-1]["choices"] == []
    assert parts[-1]["usage"] == whole["usage"]
    for i in range(2):
        own = [part["choices"][0] for part in parts[:-1] if part["choices"][0]["index"] == i]
        assert "".join(one["text"] for one in own) == whole["choices"][i]["text"]
        assert [one["finish_reason"] for one in own][-1] == whole["choices"][i]["finish_reason"]
        assert all(one["finish_reason"] is None for one in own[:-1])


@pytest.mark.parametrize("kind", FAMILIES)
def test_drafts_show_the_canvas(servers, kind):
    running = servers(kind)
    parts = events(running.post(body(stream=True, stream_drafts=True)))
    drafts = [part["choices"][0]["draft"] for part in parts if "draft" in part["choices"][0]]
    text = "".join(part["choices"][0]["text"] for part in parts)
    assert len(drafts) >= 1, "a slow reader gets the newest ones only"
    steps = [draft["step"] for draft in drafts]
    assert steps == sorted(set(steps))
    for draft in drafts:
        assert draft["masked"] == draft["text"].count(MASK)
    assert drafts[-1]["text"] == text
    assert text == running.post(body()).json()["choices"][0]["text"]


def test_the_settings_of_generate_are_taken(servers, tiny, tokenizer):
    import torch

    model = tiny("masked")
    encoded = tokenizer([PROMPT], return_tensors="pt")
    options = {"sampler": "remdm", "remasking": "cap", "num_diffusion_steps": 5, "top_k": 7, "temperature": 0.8}
    ids = model.generate(
        **encoded, max_new_tokens=12, generator=[torch.Generator().manual_seed(3 * 1_000_003)], **options
    )[0, encoded["input_ids"].shape[1] :].tolist()
    expected = tokenizer.decode(ids[: ids.index(1)] if 1 in ids else ids, skip_special_tokens=True)
    assert servers("masked").post(body(**options)).json()["choices"][0]["text"] == expected


def test_temperature_zero_is_the_most_probable_text(servers, tiny, tokenizer):
    model = tiny("ar")
    encoded = tokenizer([PROMPT], return_tensors="pt")
    ids = model.generate(**encoded, max_length=encoded["input_ids"].shape[1] + 12, do_sample=False)[
        0, encoded["input_ids"].shape[1] :
    ].tolist()
    expected = tokenizer.decode(ids[: ids.index(1)] if 1 in ids else ids, skip_special_tokens=True)
    answers = {servers("ar").post(body(temperature=0, seed=seed)).json()["choices"][0]["text"] for seed in (1, 2)}
    assert answers == {expected}


@pytest.mark.parametrize("kind", ["ar", "masked", "uniform"])
def test_a_stop_string_is_cut_off(servers, kind):
    running = servers(kind)
    for seed in range(20):
        whole = running.post(body(seed=seed)).json()["choices"][0]["text"]
        if len(whole) > 6:
            break
    stop = whole[3:5]
    request = body(seed=seed, stop=[stop, "never there"])
    choice = running.post(request).json()["choices"][0]
    assert choice["text"] == whole[: whole.index(stop)]
    assert choice["finish_reason"] == "stop"
    streamed = events(running.post({**request, "stream": True}))
    assert "".join(part["choices"][0]["text"] for part in streamed) == choice["text"]


def test_gaps_are_filled(servers, tokenizer):
    gap = "The dog [MASK][MASK] the cat."
    answer = servers("masked").post(body(prompt=gap, echo=True, max_tokens=0)).json()
    text = answer["choices"][0]["text"]
    assert text.startswith("The dog")
    assert text.endswith(" the cat.")
    assert answer["usage"]["completion_tokens"] == 2
    refused = servers("masked").post(body(prompt=gap))
    assert refused.status_code == 400
    assert '"echo": true' in refused.json()["error"]["message"]
    assert "autoregressive" in servers("ar").post(body(prompt=gap, echo=True)).json()["error"]["message"]


def test_echo(servers):
    text = servers("masked").post(body(echo=True)).json()["choices"][0]["text"]
    assert text == PROMPT + servers("masked").post(body()).json()["choices"][0]["text"]


@pytest.mark.parametrize("kind", ["ar", "masked"])
def test_without_a_length_the_context_is_filled(servers, kind, tokenizer):
    request = {"model": "tiny", "prompt": [PROMPT, "The"], "seed": 0}
    answer = servers(kind).post(request).json()
    for choice in answer["choices"]:
        assert choice["finish_reason"] in ("stop", "length")
    if {choice["finish_reason"] for choice in answer["choices"]} == {"length"}:
        assert answer["usage"]["total_tokens"] == 96


@pytest.mark.parametrize("kind", ["ar", "masked", "uniform"])
def test_a_chat(servers, kind, tokenizer):
    running = servers(kind)
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    request = {"model": "tiny", "messages": messages, "max_completion_tokens": 8, "seed": 5}
    whole = running.post(request, "chat/completions").json()
    assert whole["object"] == "chat.completion"
    message = whole["choices"][0]["message"]
    assert message["role"] == "assistant"
    prompt = "system: Be short.\nuser: Hi\nassistant:"
    same = running.post({"model": "tiny", "prompt": prompt, "max_tokens": 8, "seed": 5}).json()
    assert message["content"] == same["choices"][0]["text"]
    assert whole["usage"] == same["usage"]
    parts = events(running.post({**request, "stream": True}, "chat/completions"))
    assert parts[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert {part["object"] for part in parts} == {"chat.completion.chunk"}
    assert "".join(part["choices"][0]["delta"].get("content", "") for part in parts) == message["content"]


def test_a_chat_needs_a_template(serve):
    answer = serve("masked").post(
        {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}, "chat/completions"
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "no_chat_template"


def test_models_health_and_metrics(servers):
    running = servers("masked")
    running.post(body())
    listed = httpx.get(f"{running.url}/v1/models").json()["data"]
    assert [one["id"] for one in listed] == ["tiny"]
    assert "remdm" in listed[0]["samplers"]
    assert httpx.get(f"{running.url}/v1/models/tiny").json() == listed[0]
    assert httpx.get(f"{running.url}/health").json()["status"] == "ok"
    page = httpx.get(f"{running.url}/metrics").text
    assert 'arche_mdlm_requests_total{endpoint="/v1/completions",status="200"}' in page
    assert "arche_mdlm_waiting_texts 0.0" in page


def test_the_log_has_no_text(servers, caplog):
    with caplog.at_level("INFO", logger="arche_mdlm.serving"):
        text = servers("masked").post(body(prompt="Secret cats")).json()["choices"][0]["text"]
        late = time.monotonic() + 10  # the line comes behind the answer, from another thread
        while not caplog.records and time.monotonic() < late:
            time.sleep(0.01)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "completion_tokens=12" in line or "finish_reason=stop" in line
    assert "Secret" not in line
    assert text not in line
