"""How metrics of workers and selectors reach the api: as text in Redis, beside heartbeats."""

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from service.job_queue import JobQueue
from service.queue_streams import outages_named


async def publish(queue: JobQueue, name: str, registry: CollectorRegistry) -> None:
    """Make metrics readable by every api; call with each heartbeat of that name."""
    life_ms = int(3000 * queue.settings.heartbeat_s)
    with outages_named():
        await queue.redis.set(_key(queue, name), generate_latest(registry), px=life_ms)


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
