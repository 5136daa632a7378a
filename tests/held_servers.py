"""Servers whose model waits, and clients that can leave."""

import json
import socket
import threading
import time
from urllib.parse import urlsplit


def connect(running) -> socket.socket:
    place = urlsplit(running.url)
    return socket.create_connection((place.hostname, place.port), timeout=30)


class Held:
    """A writer that waits until it is let go, at every batch."""

    def __init__(self, writer):
        self.writer, self.go, self.began = writer, threading.Event(), threading.Event()

    def write(self, rows):
        self.began.set()
        while not self.go.wait(0.01):
            if all(row.is_over for row in rows):
                return
        self.writer.write(rows)


def wait_for(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never became true"
        time.sleep(0.01)


def asks(running, request: dict) -> socket.socket:
    """A connection that has sent a request, and waits."""
    data = json.dumps(request).encode()
    raw = connect(running)
    raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    return raw
