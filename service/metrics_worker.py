"""Prometheus metrics of a worker or selector: batches, jobs, leases, plugins, memory."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.errors import JobNotFound
from service.job_queue import JobQueue
from service.jobs import JobStatus, Timings
from service.metrics_published import publish
from service.queue_records import Claim

STAGE_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
BATCH_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
RATIO_BUCKETS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1)
NO_PLUGIN = "none"  # the label of jobs that ran none


class Residency(Protocol):
    """service.models.residency.Residency."""

    num_hits: int
    num_host_hits: int
    num_misses: int
    num_evictions: int
    load_s: float
    resident_bytes: int


class EngineState(Protocol):
    """What is measured of an engine besides its updates."""

    @property
    def num_padding_rows(self) -> int: ...
    @property
    def residency(self) -> Residency: ...
    @property
    def device_memory(self) -> Mapping[str, int]: ...
    @property
    def edit_memory(self) -> Mapping[str, int]: ...
    @property
    def num_short_of_memory(self) -> int: ...


class EngineMetrics:
    """What one worker or selector counts. `state` is that of its engine, if it has one."""

    def __init__(self, engine: EngineState | None = None) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(namespace="diffplugin", registry=self.registry)
        self.registry.register(EngineCollector(engine))
        self._add_batches()
        self._add_jobs()

    def _add_batches(self) -> None:
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
        self.occupancy = Histogram(
            "diffplugin_batch_occupancy_ratio",
            "Edits in a UNet call, of those that it had room for.",
            buckets=RATIO_BUCKETS,
            registry=self.registry,
        )

    def _add_jobs(self) -> None:
        self.requests = Counter(
            "diffplugin_requests",
            "Jobs ended here, by each plugin of their plan and how they ended: ok or a code.",
            ["plugin", "code"],
            registry=self.registry,
        )
        self.retries = Counter(
            "diffplugin_retries",
            "Jobs claimed here that had been claimed before, by stage.",
            ["stage"],
            registry=self.registry,
        )
        self.leases_lost = Counter(
            "diffplugin_leases_lost",
            "Claims of this process that another took over.",
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

    def observe_batch(self, plugins: Sequence[str], seconds: float, max_edits: int = 0) -> None:
        """One UNet call: the plugin of each edit in it, how long it took, how full it was."""
        self.batches.inc()
        self.batch_size.observe(len(plugins))
        self.steps.inc(len(plugins))
        self.batch_seconds.observe(seconds)
        if max_edits:
            self.occupancy.observe(len(plugins) / max_edits)
        if len(set(plugins)) > 1:
            self.shared_batches.inc()
        for name in plugins:
            self.rows.labels(name).inc()

    def observe_claims(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            if claim.delivery > 1:
                self.retries.labels(claim.stage.value).inc()

    def observe_job(
        self, status: JobStatus, timings: Timings, plugins: Sequence[str] = (), code: str = "ok"
    ) -> None:
        """A job that ended in this process; stages that it did not pass are left out."""
        self.jobs.labels(status.value).inc()
        for name in plugins or (NO_PLUGIN,):
            self.requests.labels(name, code).inc()
        for field, seconds in timings.model_dump().items():
            if seconds > 0:
                self.stage_seconds.labels(field.removesuffix("_s")).observe(seconds)

    async def observe_lost(self, queue: JobQueue, claims: Iterable[Claim]) -> None:
        """Claims that do not hold any more: one whose job was canceled or expired was not lost."""
        for claim in claims:
            with suppress(JobNotFound):
                if (await queue.get(claim.job.id)).attempt > claim.delivery:
                    self.leases_lost.inc()

    async def publish(self, queue: JobQueue, name: str) -> None:
        """Make these metrics readable by every api; call with each heartbeat of that name."""
        await publish(queue, name, self.registry)


class EngineCollector(Collector):
    """Reads the engine's own numbers when they are asked for."""

    def __init__(self, engine: EngineState | None) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        if self._engine is None:
            return
        yield CounterMetricFamily(
            "diffplugin_padding_rows",
            "Rows in UNet calls that were nobody's, to fill a size that is fast.",
            self._engine.num_padding_rows,
        )
        counts = self._engine.residency
        yield CounterMetricFamily(
            "diffplugin_plugin_hits", "Plugins asked for that were resident.", counts.num_hits
        )
        yield CounterMetricFamily(
            "diffplugin_plugin_host_hits",
            "Plugins asked for that were in host memory, one copy away.",
            counts.num_host_hits,
        )
        yield CounterMetricFamily(
            "diffplugin_plugin_misses", "Plugins that had to be loaded.", counts.num_misses
        )
        yield CounterMetricFamily(
            "diffplugin_plugin_evictions", "Plugins that made room.", counts.num_evictions
        )
        yield CounterMetricFamily(
            "diffplugin_plugin_load_seconds", "Time of loading plugins.", counts.load_s
        )
        yield GaugeMetricFamily(
            "diffplugin_plugin_resident_bytes",
            "Weights of the resident plugins.",
            counts.resident_bytes,
        )
        yield _by_kind(
            "diffplugin_device_memory_bytes",
            "Memory of the GPU: allocated, reserved, total. On a CPU there is no sample.",
            self._engine.device_memory,
        )
        yield _by_kind(
            "diffplugin_edit_memory_bytes",
            "Memory that running edits need at most, as measured at start, and their budget.",
            self._engine.edit_memory,
        )
        yield GaugeMetricFamily(
            "diffplugin_edits_short_of_memory",
            "Edits in the engine that wait for memory.",
            self._engine.num_short_of_memory,
        )


def _by_kind(name: str, text: str, values: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=["kind"])
    for kind, value in values.items():
        family.add_metric([kind], value)
    return family
