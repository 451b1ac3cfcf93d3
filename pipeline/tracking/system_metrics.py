"""What the machine does while a run is open: processor, memory and, where there are
any, NVIDIA GPUs.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

SECONDS_BETWEEN_SAMPLES = 5.0


class SystemSampler:
    """Hands over the machine's metrics every few seconds, from a thread of its own,
    until stopped.

    MLflow's own monitors do the measuring. Its SystemMetricsMonitor, which also does
    the sending, asks the store from its thread at each sample and gives up at the first
    failure; here the samples go into the run's outbox.
    """

    def __init__(
        self,
        hand_over: Callable[[dict[str, float]], None],
        every: float = SECONDS_BETWEEN_SAMPLES,
    ) -> None:
        self._hand_over = hand_over
        self._every = every
        self._stop = threading.Event()
        self._monitors = _create_monitors()
        self._thread = threading.Thread(
            target=self._sample_until_stopped, name="thaw-system-metrics", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, after a last sample."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _sample_until_stopped(self) -> None:
        while not self._stop.wait(self._every):
            self._take_sample()
        self._take_sample()

    def _take_sample(self) -> None:
        values: dict[str, float] = {}
        for monitor in self._monitors:
            # A monitor that fails must not end a training.
            with contextlib.suppress(Exception):
                monitor.collect_metrics()
                for name, value in monitor.aggregate_metrics().items():
                    values[f"system/{name}"] = float(value)
                monitor.clear_metrics()
        if values:
            self._hand_over(values)


def _create_monitors() -> list[Any]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

    monitors: list[Any] = [CPUMonitor()]  # type: ignore[no-untyped-call]
    # No NVIDIA GPU, or no nvidia-ml-py to ask it with.
    with contextlib.suppress(Exception):
        monitors.append(GPUMonitor())  # type: ignore[no-untyped-call]
    return monitors
