"""Requests of different plugins together: do they share UNet calls, and what does it save?

For every concurrency the same edits are sent one by one, together with one plugin, and together
with different plugins. Rows per UNet call are read from /metrics.

    python -m loadtests.mixed_plugins [--url http://127.0.0.1:8000] [--size 256]
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from loadtests.target import connect, damaged_photo, options_parser, service_under_test

PLUGINS = ("derain", "desnow", "dehaze", "lowlight")
METRICS_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Counts:
    """UNet calls so far, their rows, those with two or more plugins, and jobs that ended."""

    calls: float
    rows: float
    shared_calls: float
    jobs: float


@dataclass(frozen=True)
class Wave:
    """One group of edits. `ratio`: seconds of the sequential wave over its own."""

    name: str
    num_edits: int
    seconds: float
    rows_per_call: float
    shared_calls: float
    ratio: float = 1.0


def read_counts(url: str) -> Counts:
    """The engine's counters, summed over workers."""
    text = httpx.get(f"{url}/metrics", timeout=5.0, trust_env=False).text
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    return Counts(
        calls=totals.get("diffplugin_batch_size_count", 0.0),
        rows=totals.get("diffplugin_batch_size_sum", 0.0),
        shared_calls=totals.get("diffplugin_shared_batches_total", 0.0),
        jobs=totals.get("diffplugin_jobs_total", 0.0),
    )


def settled_counts(url: str, min_jobs: float) -> Counts:
    """The counters once they include `min_jobs`: workers publish them with their heartbeats."""
    deadline = time.monotonic() + METRICS_TIMEOUT_S
    counts = read_counts(url)
    while counts.jobs < min_jobs:
        if time.monotonic() > deadline:
            raise TimeoutError(f"/metrics shows {counts.jobs:g} ended jobs, not {min_jobs:g}")
        time.sleep(0.2)
        counts = read_counts(url)
    return counts


def send_wave(url: str, name: str, plugins: list[str], size: int, concurrency: int) -> Wave:
    """Send one edit per name in `plugins`, at most `concurrency` at a time."""
    photos = {plugin: damaged_photo(plugin, size) for plugin in set(plugins)}

    def edit(plugin: str) -> None:
        with connect(url) as client:
            client.edit(photos[plugin], plugins=[plugin])

    before = read_counts(url)
    started = time.monotonic()
    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(edit, plugins))
    seconds = time.monotonic() - started
    after = settled_counts(url, before.jobs + len(plugins))
    calls = max(1.0, after.calls - before.calls)
    return Wave(
        name=name,
        num_edits=len(plugins),
        seconds=seconds,
        rows_per_call=(after.rows - before.rows) / calls,
        shared_calls=after.shared_calls - before.shared_calls,
    )


def compare(url: str, num_edits: int, size: int) -> list[Wave]:
    """The three waves of `num_edits` edits."""
    mixed = [PLUGINS[index % len(PLUGINS)] for index in range(num_edits)]
    waves = [
        send_wave(url, "sequential", mixed, size, 1),
        send_wave(url, "one plugin", [PLUGINS[0]] * num_edits, size, num_edits),
        send_wave(url, "mixed", mixed, size, num_edits),
    ]
    whole = waves[0].seconds
    return [Wave(**{**asdict(wave), "ratio": whole / wave.seconds}) for wave in waves]


def main() -> None:
    parser = options_parser("Concurrent edits of different plugins against one plugin and a row.")
    parser.set_defaults(size=256)
    options = parser.parse_args()
    with service_under_test(options.url, options.log) as service:
        compare(service.url, len(PLUGINS), options.size)  # warms every plugin up
        waves = [wave for n in (2, 8) for wave in compare(service.url, n, options.size)]
    print(f"{'wave':<12} {'edits':>5} {'seconds':>8} {'ratio':>6} {'rows/call':>9} {'shared':>6}")
    for w in waves:
        print(
            f"{w.name:<12} {w.num_edits:>5} {w.seconds:>8.2f} {w.ratio:>6.2f} "
            f"{w.rows_per_call:>9.2f} {w.shared_calls:>6.0f}"
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(w) for w in waves], indent=2) + "\n")


if __name__ == "__main__":
    main()
