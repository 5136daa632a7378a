"""A signal: requests end, or are told; new ones are refused."""

import os
import re
import signal
import subprocess
import sys

import httpx
import pytest
from held_servers import asks

from arche_mdlm.training.models.loading import save_arm


def body(**changes) -> dict:
    return {"model": "tiny", "prompt": "Once", "max_tokens": 8, "seed": 3, **changes}


@pytest.mark.parametrize("stream", [False, True])
def test_requests_end_before_the_server_does(held, stream):
    running, writer = held(shutdown_timeout=30.0)
    first = asks(running, body(stream=stream))
    writer.began.wait(30)
    second = asks(running, body(seed=1))
    running.server.handle_exit(signal.SIGTERM, None)
    assert running.service.engine.closing
    writer.go.set()
    for raw in (first, second):
        answer = b""
        while part := raw.recv(65536):
            answer += part
        assert answer.startswith(b"HTTP/1.1 200 ") or b"shutting_down" in answer
        assert b"finish_reason" in answer or b"shutting_down" in answer
        raw.close()
        if raw is first:
            assert b"finish_reason" in answer
    running.thread.join(timeout=30)
    assert not running.thread.is_alive()


@pytest.mark.parametrize("stream", [False, True])
def test_late_requests_are_told(held, stream):
    running, writer = held(shutdown_timeout=0.3)
    raw = asks(running, body(stream=stream))
    writer.began.wait(30)
    running.server.handle_exit(signal.SIGINT, None)
    answer = b""
    while part := raw.recv(65536):
        answer += part
    assert b"the server was shut down before the text was finished" in answer
    assert answer.startswith(b"HTTP/1.1 200 " if stream else b"HTTP/1.1 503 ")
    running.thread.join(timeout=30)
    assert not running.thread.is_alive()


def test_no_new_requests_once_it_is_being_shut_down(serve):
    running = serve("masked")
    running.service.engine.drain()
    answer = running.post(body())
    assert answer.status_code == 503
    assert "retry-after" in answer.headers
    assert httpx.get(f"{running.url}/health").status_code == 503


def test_the_command_serves_until_a_signal(tiny, tokenizer, tmp_path):
    save_arm(tiny("masked"), tokenizer, tmp_path / "tiny")
    command = [sys.executable, "-m", "arche_mdlm.commands.main", "serve", str(tmp_path / "tiny"), "--port", "0", "--threads", "1",
               "--device", "cpu"]  # fmt: skip
    environment = os.environ | {"ARCHE_MDLM_API_KEY": "sesame"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", line):
                break
        else:
            pytest.fail("".join(lines))
        url = f"{found[1]}/v1/completions"
        assert httpx.post(url, json=body(), timeout=60).status_code == 401
        answer = httpx.post(url, json=body(), timeout=60, headers={"Authorization": "Bearer sesame"})
        assert answer.json()["choices"][0]["finish_reason"] in ("stop", "length")
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 0
        assert "shutting down" in rest
        assert "Traceback" not in rest
    finally:
        process.kill()
