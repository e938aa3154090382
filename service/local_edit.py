"""Plan and edit pictures in this process, one after the other: no server, no queue."""

from functools import cached_property
from typing import NoReturn

import diffusers
import transformers
from tqdm import tqdm

from service.engine.edit import Edit
from service.engine.engine import Engine, build_engine
from service.engine.updates import EditDone, EditFailed, StepDone
from service.images import Pixels, UnitPixels
from service.jobs import EditRequest, Plan, PlannedTask, Progress
from service.selector.planner import Planning, load_planner
from service.settings import Settings

EDIT_ID = "local"


class LocalEditor:
    """The models are loaded when they are needed first, and kept for the next picture."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        _silence_libraries()

    def plan(self, pixels: Pixels, request: EditRequest) -> Plan:
        """The plugins the request names, else what the selector makes of its instruction."""
        if request.plugins is None:
            return self._planner.plan(pixels, request.instruction)
        tasks = tuple(PlannedTask(plugin=name) for name in request.plugins)
        return Plan(tasks=tasks, source="request")

    def edit(self, pixels: Pixels, plan: Plan, steps: int | None, seed: int) -> UnitPixels:
        """Run the plan's installed plugins, with a progress bar on stderr."""
        engine = self._engine
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

    @cached_property
    def _planner(self) -> Planning:
        settings = self._settings
        return load_planner(settings.plugins_store, settings.base, settings.device)

    @cached_property
    def _engine(self) -> Engine:
        settings = self._settings
        threads, max_pixels = settings.num_threads, settings.max_whole_pixels
        store, base, device = settings.plugins_store, settings.base, settings.device
        return build_engine(store, base, device, 1, threads, max_pixels, preset=settings.preset)


def _show(bar: "tqdm[NoReturn]", progress: Progress) -> None:
    bar.set_description(f"{progress.plugin} ({progress.task}/{progress.num_tasks})")
    bar.total = progress.num_tasks * progress.num_steps
    bar.n = (progress.task - 1) * progress.num_steps + progress.step
    bar.refresh()


def _silence_libraries() -> None:
    """Their own bars and notes would stand between ours."""
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
