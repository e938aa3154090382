"""Prometheus metrics of the api: its own, and what it sees of the queue when it is scraped.

Those of workers and selectors (service.metrics_worker) come along. It knows no HTTP.
"""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from service.jobs import WorkerInfo
from service.metrics_published import PublishedMetrics
from service.queue_records import Stage, StageDepth

REQUEST_BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 180)


class ApiMetrics:
    """What one api process counts, and what it sees of the queue when it is scraped."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "diffplugin_http_requests",
            "HTTP requests answered.",
            ["route", "code"],
            registry=self.registry,
        )
        self.duration_seconds = Histogram(
            "diffplugin_request_duration_seconds",
            "From the first byte of a request to the end of its answer.",
            ["route"],
            buckets=REQUEST_BUCKETS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "diffplugin_in_flight", "HTTP requests being answered.", registry=self.registry
        )
        self.grpc_calls = Counter(
            "diffplugin_grpc_calls",
            "gRPC calls answered.",
            ["method", "code"],
            registry=self.registry,
        )
        self.queue_up = Gauge("diffplugin_queue_up", "1 if Redis answers.", registry=self.registry)
        self.queue_depth = Gauge(
            "diffplugin_queue_depth",
            "Jobs that wait, by stage and priority.",
            ["stage", "priority"],
            registry=self.registry,
        )
        self.queue_running = Gauge(
            "diffplugin_queue_running", "Claimed jobs by stage.", ["stage"], registry=self.registry
        )
        self.queue_lag = Gauge(
            "diffplugin_queue_lag_seconds",
            "How long the job that is next has waited, by stage and priority; 0 if none waits.",
            ["stage", "priority"],
            registry=self.registry,
        )
        self.dead_letters = Gauge(
            "diffplugin_dead_letters", "Jobs that were given up.", registry=self.registry
        )
        self.workers = Gauge(
            "diffplugin_workers", "Live processes by role.", ["role"], registry=self.registry
        )
        self.heartbeats = Gauge(
            "diffplugin_worker_heartbeat_timestamp_seconds",
            "When a live worker or selector was last heard of, in Unix time.",
            ["worker", "role"],
            registry=self.registry,
        )
        self._published = PublishedMetrics()
        self.registry.register(self._published)

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """An HTTP request was answered."""
        self.observer(route, status)(seconds)

    def observer(self, route: str, status: int) -> Callable[[float], None]:
        """The same for requests that all have one route and status: the labels are found once."""
        requests = self.requests.labels(route, str(status))
        duration_seconds = self.duration_seconds.labels(route)

        def observe(seconds: float) -> None:
            requests.inc()
            duration_seconds.observe(seconds)

        return observe

    def see_queue(
        self,
        depth: Mapping[Stage, StageDepth],
        num_dead: int,
        workers: Iterable[WorkerInfo],
        published: Mapping[str, str],
    ) -> None:
        """Take over what Redis says at this scrape; `published` is read_published()'s."""
        self.queue_up.set(1)
        for stage, jobs in depth.items():
            self.queue_running.labels(stage.value).set(jobs.running)
            for priority, num_jobs in jobs.waiting_by_priority.items():
                self.queue_depth.labels(stage.value, priority.value).set(num_jobs)
            for priority, seconds in jobs.lag_s_by_priority.items():
                self.queue_lag.labels(stage.value, priority.value).set(seconds)
        self.dead_letters.set(num_dead)
        self._see_workers(list(workers))
        self._published.texts = dict(published)

    def _see_workers(self, workers: list[WorkerInfo]) -> None:
        self.heartbeats.clear()  # those that are gone must not look alive
        for info in workers:
            self.heartbeats.labels(info.name, info.role).set(info.seen_at)
        roles = [info.role for info in workers]
        for role in ("worker", "selector"):
            self.workers.labels(role).set(roles.count(role))

    def lose_queue(self) -> None:
        """Redis does not answer: say so instead of repeating old numbers."""
        self.queue_up.set(0)
        self.queue_depth.clear()
        self.queue_running.clear()
        self.queue_lag.clear()
        self.heartbeats.clear()
        self.workers.clear()
        self._published.texts = {}

    def render(self) -> bytes:
        return generate_latest(self.registry)
