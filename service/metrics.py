"""Prometheus metrics of each role, and how workers' metrics reach the api's /metrics.

A worker owns an EngineMetrics and publishes its text into Redis beside its heartbeat; the api adds
a `worker` label and exports it. Nothing here knows HTTP or tensors.
"""

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from service.job_queue import JobQueue
from service.jobs import JobStatus, Timings, WorkerInfo
from service.queue_streams import outages_named

REQUEST_BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 180)
STAGE_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
BATCH_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class ApiMetrics:
    """What one api process counts, and what it sees of the queue when it is scraped."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "diffplugin_requests",
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
        self.workers = Gauge(
            "diffplugin_workers", "Live processes by role.", ["role"], registry=self.registry
        )
        self._published = PublishedMetrics()
        self.registry.register(self._published)

    def see_queue(
        self,
        waiting: Mapping[tuple[str, str], int],
        running: Mapping[str, int],
        workers: Iterable[WorkerInfo],
        published: Mapping[str, str],
    ) -> None:
        """Take over what Redis says at this scrape: waiting jobs by stage and priority.

        `published` is read_published()'s.
        """
        self.queue_up.set(1)
        for labels, num_jobs in waiting.items():
            self.queue_depth.labels(*labels).set(num_jobs)
        for stage, num_jobs in running.items():
            self.queue_running.labels(stage).set(num_jobs)
        roles = [info.role for info in workers]
        for role in ("worker", "selector"):
            self.workers.labels(role).set(roles.count(role))
        self._published.texts = dict(published)

    def lose_queue(self) -> None:
        """Redis does not answer: say so instead of repeating old numbers."""
        self.queue_up.set(0)
        self.queue_depth.clear()
        self.queue_running.clear()
        self.workers.clear()
        self._published.texts = {}

    def render(self) -> bytes:
        return generate_latest(self.registry)


class EngineMetrics:
    """What one worker or selector counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.batch_size = Histogram(
            "diffplugin_batch_size",
            "Rows per UNet call.",
            buckets=BATCH_BUCKETS,
            registry=self.registry,
        )
        self.batches = Counter("diffplugin_batches", "UNet calls.", registry=self.registry)
        self.shared_batches = Counter(
            "diffplugin_shared_batches",
            "UNet calls with rows of two or more plugins.",
            registry=self.registry,
        )
        self.steps = Counter(
            "diffplugin_steps", "Denoising steps, summed over rows.", registry=self.registry
        )
        self.rows = Counter(
            "diffplugin_rows",
            "Rows in UNet calls by their plugin.",
            ["plugin"],
            registry=self.registry,
        )
        self.batch_seconds = Histogram(
            "diffplugin_denoise_step_seconds",
            "Duration of one UNet call and sampler update.",
            buckets=STAGE_BUCKETS,
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "diffplugin_stage_seconds",
            "Time of a finished job by stage.",
            ["stage"],
            buckets=STAGE_BUCKETS,
            registry=self.registry,
        )
        self.jobs = Counter(
            "diffplugin_jobs", "Jobs ended here by status.", ["status"], registry=self.registry
        )

    def observe_batch(self, plugins: Sequence[str], seconds: float) -> None:
        """One UNet call: the plugin of each row, and how long it took."""
        self.batches.inc()
        self.batch_size.observe(len(plugins))
        self.steps.inc(len(plugins))
        self.batch_seconds.observe(seconds)
        if len(set(plugins)) > 1:
            self.shared_batches.inc()
        for name in plugins:
            self.rows.labels(name).inc()

    def observe_job(self, status: JobStatus, timings: Timings) -> None:
        """A job that ended in this process; stages that it did not pass are left out."""
        self.jobs.labels(status.value).inc()
        for field, seconds in timings.model_dump().items():
            if seconds > 0:
                self.stage_seconds.labels(field.removesuffix("_s")).observe(seconds)

    async def publish(self, queue: JobQueue, name: str) -> None:
        """Make these metrics readable by every api; call with each heartbeat of that name."""
        life_ms = int(3000 * queue.settings.heartbeat_s)
        with outages_named():
            await queue.redis.set(_key(queue, name), generate_latest(self.registry), px=life_ms)


async def read_published(queue: JobQueue, names: Sequence[str]) -> dict[str, str]:
    """Published metrics text by process name, of those that have published."""
    if not names:
        return {}
    with outages_named():
        texts = await queue.redis.mget([_key(queue, name) for name in names])
    return {
        name: text.decode() if isinstance(text, bytes) else text
        for name, text in zip(names, texts, strict=True)
        if text is not None
    }


class PublishedMetrics(Collector):
    """Families of other processes, merged, each sample with the label `worker`."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for worker, text in self.texts.items():
            for family in text_string_to_metric_families(text):
                if family.name.endswith("_created"):
                    continue
                merged = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    labels = {**sample.labels, "worker": worker}
                    merged.add_sample(sample.name, labels, sample.value)
        return families.values()


def _key(queue: JobQueue, name: str) -> str:
    return f"{queue.settings.prefix}:metrics:{name}"
