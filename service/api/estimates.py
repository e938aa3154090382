"""What an edit would take, in time and in work, from how fast the live workers have been lately."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from service.jobs import Plan, WorkerInfo
from service.plugin_manifest import PluginManifest
from service.queue_limits import Demand


def estimate_s(
    plan: Plan,
    size: tuple[int, int],
    plugins: Mapping[str, PluginManifest],
    workers: Iterable[WorkerInfo],
    num_waiting: int,
) -> float | None:
    """Seconds of an edit of width x height, behind `num_waiting` jobs like it.

    None if no live worker has finished an edit yet.
    """
    alive = list(workers)
    paces = [info.step_s_per_mpx for info in alive if info.step_s_per_mpx is not None]
    if not paces:
        return None
    num_steps = sum(plugins[name].default_steps for name in plan.runnable if name in plugins)
    edit_s = sum(paces) / len(paces) * num_steps * size[0] * size[1] / 1e6
    return edit_s * (1 + num_waiting / len(alive))


def demand_of(
    plan: Plan | None,
    steps: int | None,
    size: tuple[int, int],
    plugins: Mapping[str, PluginManifest],
    workers: Sequence[WorkerInfo],
) -> Demand:
    """What an edit of width x height takes. Until it is planned, it counts as one usual task."""
    if plan is None:
        usual = [manifest.default_steps for manifest in plugins.values()] or [0]
        each = [steps or statistics.median_low(usual)]
    else:
        each = [steps or plugins[name].default_steps for name in plan.runnable if name in plugins]
    rates = [info.pixel_steps_per_s for info in workers if info.pixel_steps_per_s]
    # Those that have not measured theirs yet are taken to be like the others.
    rate = statistics.mean(rates) * len(workers) if rates else None
    return Demand(size[0] * size[1] * sum(each), rate)
