"""Plan and edit one picture in this process: no server, no queue."""

from typing import NoReturn

import diffusers
import transformers
from tqdm import tqdm

from service.engine.engine import build_engine
from service.engine.trajectory import Edit
from service.engine.updates import EditDone, EditFailed, StepDone
from service.images import Pixels, UnitPixels
from service.jobs import EditRequest, Plan, PlannedTask, Progress
from service.selector.planner import load_planner
from service.settings import Settings

EDIT_ID = "local"


def plan_picture(settings: Settings, pixels: Pixels, request: EditRequest) -> Plan:
    """The plugins the request names, else what the selector makes of its instruction."""
    if request.plugins is None:
        planner = load_planner(settings.plugins_store, settings.base, settings.device)
        return planner.plan(pixels, request.instruction)
    return Plan(tasks=tuple(PlannedTask(plugin=name) for name in request.plugins), source="request")


def edit_picture(
    settings: Settings, pixels: Pixels, plan: Plan, steps: int | None, seed: int
) -> UnitPixels:
    """Run the plan's installed plugins, with a progress bar on stderr."""
    _silence_libraries()
    engine = build_engine(
        settings.plugins_store,
        settings.base,
        settings.device,
        1,
        settings.num_threads,
        settings.max_whole_pixels,
        preset=settings.preset,
    )
    engine.add(Edit(EDIT_ID, pixels, plan.runnable, steps, seed))
    with tqdm(unit="step", leave=False) as bar:
        while engine.has_work:
            for update in engine.step():
                if isinstance(update, StepDone):
                    _show(bar, update.progress)
                elif isinstance(update, EditFailed):
                    raise update.error
                elif isinstance(update, EditDone):
                    return update.restored
    raise AssertionError("the engine ended without the edit. This is a bug.")


def _show(bar: "tqdm[NoReturn]", progress: Progress) -> None:
    bar.set_description(f"{progress.plugin} ({progress.task}/{progress.num_tasks})")
    bar.total = progress.num_tasks * progress.num_steps
    bar.n = (progress.task - 1) * progress.num_steps + progress.step
    bar.refresh()


def _silence_libraries() -> None:
    """Their own bars and notes would stand between ours."""
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
