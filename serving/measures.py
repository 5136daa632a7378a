"""What is measured, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Measures:
    """Counters and histograms of one server."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter("arche_mdlm_requests", "Requests answered", ["endpoint", "status"], registry=own)
        self.seconds = Histogram(
            "arche_mdlm_request_seconds", "Time of a request", ["endpoint"], buckets=_SECONDS, registry=own
        )
        self.batch_rows = Histogram("arche_mdlm_batch_rows", "Texts written together", buckets=_ROWS, registry=own)
        self.prompt_tokens = Counter("arche_mdlm_prompt_tokens", "Tokens of prompts of answered requests", registry=own)
        self.completion_tokens = Counter(
            "arche_mdlm_completion_tokens", "Tokens written for answered requests", registry=own
        )
        self.left = Counter("arche_mdlm_clients_left", "Requests whose client left before the answer", registry=own)
        self.waiting = Gauge("arche_mdlm_waiting_texts", "Texts in the queue", registry=own)
        self.running = Gauge("arche_mdlm_running_texts", "Texts being written", registry=own)

    def page(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)
