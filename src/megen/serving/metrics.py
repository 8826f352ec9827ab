"""Figures for Prometheus: queue, batches, steps, bits, decisions, late requests, goodput."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from megen.serving.request import Served
from megen.serving.service import Service

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.05, 0.1, 0.2, 0.4, 0.7, 1, 1.5, 2, 3, 5, 8, 13, 20, 30, 60)
BYTES = (500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000)
ROWS = (1, 2, 4, 8, 16, 32)
BPS = (1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8, 1e9)


class Metrics:
    """All figures of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.ended = Counter("megen_requests", "Requests that are over, by how they ended", ["state"], registry=self.registry)
        self.refused = Counter(
            "megen_refused",
            "Requests not taken on and connections closed for a fault, by the error's code",
            ["code"],
            registry=self.registry,
        )
        self.late = Counter("megen_late", "Pictures shown after their deadline", registry=self.registry)
        self.decisions = Counter("megen_decisions", "Decisions by steps and quantiser", ["steps", "quantiser_bits"], registry=self.registry)
        self.queue_s = Histogram("megen_queue_seconds", "From arrival to the engine", registry=self.registry, buckets=SECONDS)
        self.es_s = Histogram("megen_es_seconds", "From arrival to the last part", registry=self.registry, buckets=SECONDS)
        self.latency_s = Histogram("megen_latency_seconds", "Request to picture, by the phone", registry=self.registry, buckets=SECONDS)
        self.step_s = Gauge("megen_step_seconds", "Running mean of one row's denoising step", registry=self.registry)
        self.rows = Histogram("megen_batch_rows", "Rows in a request's batches, in the mean", registry=self.registry, buckets=ROWS)
        self.payload = Histogram("megen_payload_bytes", "Bytes of a payload", registry=self.registry, buckets=BYTES)
        self.goodput = Histogram("megen_goodput_bits_per_second", "Acknowledged bits a second", registry=self.registry, buckets=BPS)
        self.connections = Gauge("megen_connections", "Open WebSockets", registry=self.registry)
        self.waiting = Gauge("megen_waiting", "Requests in the queue", registry=self.registry)
        self.running = Gauge("megen_running", "Requests at the engine", registry=self.registry)
        self.unwritten = Gauge("megen_log_lines_unwritten", "Lines that the log could not take", registry=self.registry)

    def follow(self, service: Service) -> None:
        """Read the gauges from a service."""
        self.waiting.set_function(lambda: len(service.scheduler))
        self.running.set_function(lambda: service.scheduler.running)
        self.step_s.set_function(lambda: service.step_s)
        self.unwritten.set_function(lambda: service.outcomes.unwritten)

    def end(self, served: Served) -> None:
        """A request is over at the server."""
        self.ended.labels(served.state).inc()
        if served.state != "sent":
            return
        decision = served.decided.decision
        self.decisions.labels(str(decision.steps), f"{decision.quantiser_bits:g}").inc()
        self.queue_s.observe(served.seconds["queue"])
        self.es_s.observe(served.ended_s - served.arrived_s)
        self.rows.observe(served.rows)
        self.payload.observe(sum(len(p.data) for p in served.pieces))

    def shown(self, served: Served, latency_s: float) -> None:
        """The user equipment says that its picture is shown."""
        self.latency_s.observe(latency_s)
        if served.asked.deadline_s is not None and latency_s > served.asked.deadline_s:
            self.late.inc()

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)
