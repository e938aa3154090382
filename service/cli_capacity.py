"""`diffplugin plan-capacity`: how many GPUs some traffic needs, by simulation of the fleet."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from service.capacity_plan import TargetOutOfReach, Traffic, plan_workers
from service.capacity_simulation import StepTimes
from service.errors import InvalidRequest


def plan_capacity(
    edits_per_s: Annotated[float, typer.Option(help="Traffic: edits that arrive per second.")],
    p95_s: Annotated[float, typer.Option(help="Target: 95 % of edits end within this.")],
    bench: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="JSON of `loadtests.gpu_bench`."),
    ] = None,
    step_ms: Annotated[
        str | None, typer.Option(help="A step's time by rows instead, e.g. 1:21,8:60.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of a task.")] = None,
    prepare_ms: Annotated[
        float | None, typer.Option(min=0, help="Of a task before its steps.")
    ] = None,
    finish_ms: Annotated[float | None, typer.Option(min=0, help="Of a task after them.")] = None,
    outside_ms: Annotated[float, typer.Option(min=0, help="Front end, queue, image files.")] = 50.0,
    tasks: Annotated[float, typer.Option(min=1, help="Plugins of an edit, in the mean.")] = 1.0,
    max_batch_size: Annotated[int, typer.Option(min=1, help="Rows of a worker.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print all that was tried.")] = False,
) -> None:
    """Say how many GPUs some traffic needs at a given p95."""
    measured = _of_bench(bench) if bench else {}
    given = {"prepare_ms": prepare_ms, "finish_ms": finish_ms, "steps": steps}
    measured |= {name: value for name, value in given.items() if value is not None}
    if step_ms:
        measured["step_ms"] = _by_rows(step_ms)
    if "step_ms" not in measured or "steps" not in measured:
        raise InvalidRequest("give --bench FILE, or --step-ms such as 1:21,8:60 and --steps")
    try:
        times = StepTimes(
            {rows: ms / 1e3 for rows, ms in measured["step_ms"].items()},
            measured["steps"],
            measured.get("prepare_ms", 0.0) / 1e3,
            measured.get("finish_ms", 0.0) / 1e3,
            outside_ms / 1e3,
        )
        traffic = Traffic(edits_per_s, tasks)
        found = plan_workers(traffic, times, p95_s, max_batch_size)
    except (ValueError, TargetOutOfReach) as error:
        raise InvalidRequest(str(error)) from error
    chosen = next(one for one in found if one.p95_s <= p95_s)
    if as_json:
        tried = [asdict(one) for one in found]
        print(json.dumps({"num_gpus": chosen.num_workers, "tried": tried}, indent=2))
        return
    print(f"{'GPUs':>7} {'p50 s':>8} {'p95 s':>8} {'p99 s':>8} {'busy':>6} {'rows':>6}")
    for one in found:
        mark = "  <- enough" if one is chosen else ""
        print(
            f"{one.num_workers:>7} {one.p50_s:>8.3f} {one.p95_s:>8.3f} {one.p99_s:>8.3f} "
            f"{one.utilisation:>6.0%} {one.mean_rows:>6.2f}{mark}"
        )
    print(f"{edits_per_s:g} edits/s within {p95_s:g} s at p95: {chosen.num_workers} GPUs")


def _by_rows(text: str) -> dict[int, float]:
    try:
        pairs = (part.split(":") for part in text.split(","))
        return {int(rows): float(ms) for rows, ms in pairs}
    except ValueError as error:
        raise InvalidRequest(
            f"--step-ms {text!r}: give milliseconds by rows, such as 1:21,8:60"
        ) from error


def _of_bench(path: Path) -> dict[str, Any]:
    """Step, codec and SCB times of a report of loadtests.gpu_bench."""
    try:
        networks = json.loads(path.read_text())["networks"]
        codec, scb = networks["codec_ms"]["1"], {int(n): ms for n, ms in networks["scb_ms"].items()}
        steps = max(scb)
        return {
            "step_ms": {int(rows): ms for rows, ms in networks["step_ms"].items()},
            "steps": steps,
            "prepare_ms": codec["encode"] + scb[steps],
            "finish_ms": codec["decode"],
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest(
            f"{path} is no report of loadtests.gpu_bench with its section `networks`: {error!r}"
        ) from error
