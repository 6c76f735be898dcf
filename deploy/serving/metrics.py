"""What a server counts, for Prometheus. Several workers write to files of one folder, and each answers for all."""

import os
from collections.abc import Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

CONTENT_TYPE = CONTENT_TYPE_LATEST
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Where the library looks for the folder of several processes; it must be set before it is imported."""
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
PICTURES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one process."""

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        self._requests = Counter(
            "detheads_requests",
            "Requests by route and status; 0: the client hung up.",
            ["route", "status"],
            registry=own,
        )
        self._seconds = Histogram(
            "detheads_request_seconds", "From headers to answer.", ["route"], buckets=SECONDS, registry=own
        )
        self._pictures = Histogram(
            "detheads_batch_pictures", "Pictures that ran together.", ["model"], buckets=PICTURES, registry=own
        )
        self._inference = Histogram(
            "detheads_batch_seconds", "Seconds of a run of the graph.", ["model"], buckets=SECONDS, registry=own
        )
        self._reloads = Counter(
            "detheads_reloads", "Replaced bundles: served or refused.", ["model", "outcome"], registry=own
        )
        self.in_progress = Gauge(
            "detheads_requests_in_progress", "Accepted and not yet answered.", multiprocess_mode="livesum", registry=own
        )

        self._drift = Gauge(
            "detheads_drift",
            "Distance of what is seen from what was seen at export, 0 to 1 (Kolmogorov and Smirnov's).",
            ["model", "head", "measure"],
            multiprocess_mode="livemax",
            registry=own,
        )
        self._warnings = Gauge(
            "detheads_drift_warnings",
            "Causes of drift that are told now.",
            ["model"],
            multiprocess_mode="livemax",
            registry=own,
        )

    def drifted(self, model: str, told: Mapping[str, Any]) -> None:
        """What the monitor of a model says (see :meth:`detheads.deploy.monitor.monitor.Monitor.to_dict`)."""
        self._warnings.labels(model).set(len(told["warnings"]))
        for head, measures in told["heads"].items():
            for measure, drift in measures.items():
                self._drift.labels(model, head, measure).set(drift["distance"])

    def ended(self, route: str, status: int, seconds: float) -> None:
        """A request is over."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def ran(self, model: str, pictures: int, seconds: float) -> None:
        """A batch was run."""
        self._pictures.labels(model).observe(pictures)
        self._inference.labels(model).observe(seconds)

    def reloaded(self, model: str, outcome: str) -> None:
        """A bundle was replaced: ``served`` or ``refused``."""
        self._reloads.labels(model, outcome).inc()

    def page(self) -> bytes:
        """In Prometheus' text format: of this process, or of all workers where there are several."""
        registry = self._registry
        if FOLDER in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return bytes(generate_latest(registry))
