"""How long an edit would take, from how fast the live workers have been lately."""

from collections.abc import Iterable, Mapping

from service.jobs import Plan, WorkerInfo
from service.plugin_manifest import PluginManifest


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
