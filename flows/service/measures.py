"""What /metrics says."""

from __future__ import annotations

from collections.abc import Callable

import psutil
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from flows.service.answer_log import AnswerLog
from flows.service.follower import ServedModel


class Measures:
    """Counters of one server, in a registry of their own.

    Args:
        held_bytes: how many bytes of bodies the server holds.
    """

    media_type = CONTENT_TYPE_LATEST

    def __init__(
        self, model: ServedModel, log: AnswerLog | None, held_bytes: Callable[[], int]
    ) -> None:
        self.model = model
        self.log = log
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "thaw_predict_requests",
            "Requests to /predict by HTTP status.",
            ["status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "thaw_predict_seconds",
            "Seconds from a request's headers to its answer.",
            registry=self.registry,
        )
        self._add_request_gauges(held_bytes)
        self._add_state_gauges()

    def _add_request_gauges(self, held_bytes: Callable[[], int]) -> None:
        self._add_gauge(
            "thaw_waiting_requests",
            "Requests that wait or are being answered.",
            lambda: self.model.waiting,
        )
        self._add_gauge(
            "thaw_held_bytes",
            "Bytes of the bodies that are read or being answered.",
            held_bytes,
        )

    def _add_state_gauges(self) -> None:
        model = self.model
        self._add_gauge(
            "thaw_served_version", "The version that answers.", self._version
        )
        self._add_gauge(
            "thaw_model_swaps", "Versions that took over.", lambda: model.swaps
        )
        self._add_gauge(
            "thaw_model_refusals",
            "Times that a version was refused.",
            lambda: model.refusals,
        )
        self._add_gauge(
            "thaw_model_restarts",
            "Times that the model was started again.",
            lambda: model.restarts,
        )
        self._add_gauge(
            "thaw_degraded",
            "1 where /health names a reason.",
            lambda: float(bool(model.faults)),
        )
        self._add_gauge(
            "thaw_log_failures", "Answers that could not be logged.", self._log_failures
        )
        self._add_gauge(
            "thaw_model_rss_bytes",
            "Resident memory of the model's process.",
            self._model_memory,
        )

    def _add_gauge(self, name: str, meaning: str, value: object) -> None:
        gauge = Gauge(name, meaning, registry=self.registry)
        gauge.set_function(value)  # type: ignore[arg-type]

    def _version(self) -> float:
        if self.model.current:
            return float(self.model.current.version.version)
        return 0.0

    def _log_failures(self) -> float:
        if self.log is None:
            return 0.0
        return float(self.log.failures)

    def _model_memory(self) -> float:
        if not self.model.current:
            return 0.0
        try:
            process = psutil.Process(self.model.current.pid)
            return float(process.memory_info().rss)
        except psutil.Error:
            return 0.0

    def count(self, status: int, seconds: float) -> None:
        """Counts one request to /predict."""
        self.requests.labels(str(status)).inc()
        self.seconds.observe(seconds)

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)
