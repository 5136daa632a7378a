"""Servers of tiny models, each in a thread of this process."""

import copy
import logging
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("fastapi")
import httpx
import torch
import uvicorn
from held_servers import Held
from served_models import FAMILIES
from transformers import LlamaConfig, LlamaForCausalLM

from arche_mdlm import MDLMConfig, MDLMForMaskedDiffusion
from arche_mdlm.serving.app import Service, build_app
from arche_mdlm.serving.server import GracefulServer, ServerSettings, make_service
from arche_mdlm.training.models.loading import set_generation_defaults

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"


@dataclass
class Running:
    """A server that runs."""

    url: str
    service: Service
    server: GracefulServer
    thread: threading.Thread

    def post(self, body: Any, path: str = "completions", **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/{path}", json=body, timeout=60, **options)


@pytest.fixture(scope="session")
def tiny(tokenizer, tiny_config):
    """A seeded tiny model of a family, or "ar", with the vocabulary of `tokenizer`."""

    def build(kind: str) -> Any:
        fields = {**tiny_config, "vocab_size": len(tokenizer), "num_hidden_layers": 1, "initializer_range": 0.3}
        torch.manual_seed(1)
        if kind == "ar":
            model = LlamaForCausalLM(LlamaConfig(**fields))
        else:
            model = MDLMForMaskedDiffusion(
                MDLMConfig(
                    **{**fields, "mask_token_id": tokenizer.mask_token_id, "num_diffusion_steps": 4, **FAMILIES[kind]}
                )
            )
        set_generation_defaults(model, tokenizer, 48)
        return model.eval()

    return build


@pytest.fixture(scope="session")
def serve(tokenizer, tiny):
    """Start a server of a kind of model with some settings; all are stopped in the end."""
    logging.getLogger("arche_mdlm.serving").setLevel(logging.INFO)
    started = []

    def start(kind: str = "masked", chat: bool = False, **settings: Any) -> Running:
        own = copy.deepcopy(tokenizer)
        own.chat_template = TEMPLATE if chat else None
        service = make_service(tiny(kind), own, ServerSettings("tiny", **settings))
        listening = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(build_app(service), log_config=None, access_log=False, timeout_graceful_shutdown=10)
        server = GracefulServer(config, service.engine, settings.get("shutdown_timeout", 5.0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        service.engine.start()
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        running = Running(f"http://127.0.0.1:{listening.getsockname()[1]}", service, server, thread)
        started.append(running)
        return running

    yield start
    for running in started:
        running.server.should_exit = True
        running.service.engine.stop()
    for running in started:
        running.thread.join(timeout=15)


@pytest.fixture(scope="session")
def servers(serve):
    """A server with a chat template of each kind of model, started when it is first asked for."""
    found: dict[str, Running] = {}

    def of(kind: str) -> Running:
        if kind not in found:
            found[kind] = serve(kind, chat=True)
        return found[kind]

    return of


@pytest.fixture
def held(serve):
    """A server whose writer is held; it writes one text at once, and two may wait."""

    def start(**settings):
        running = serve("masked", **{"batch_size": 1, "queue_length": 2, **settings})
        running.service.engine.writer = writer = Held(running.service.engine.writer)
        return running, writer

    return start
