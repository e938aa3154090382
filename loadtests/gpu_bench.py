"""One command for a new GPU: kernels by batch size, one edit's latency, edits per second and MFU.

    python -m loadtests.gpu_bench [--base sd15-random] [--compile] [--out docs/benchmarks]

Writes OUT/<name of the GPU>.json after every part, so a run that is cut off leaves what it has.
Without CUDA it runs in a reduced form on the base `tiny`, which only proves that it works.
MFU counts 22.413 TFLOP for an edit of Stable Diffusion 1.5 (512x512, 20 steps) in every version,
over the fastest square half-precision matrix product that was measured in the same run.
"""

import argparse
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from loadtests.baselines import to_unit
from loadtests.bench_bases import SIZES, bench_base
from loadtests.contenders import Contenders, drain
from loadtests.goals import environment
from service.engine.complements import Complements
from service.engine.engine import Engine
from service.engine.model_runner import ModelRunner

TFLOP_PER_EDIT = {"sd15-random": 22.413}  # the other bases are not for comparison
NUM_RUNS = 5
MATMUL_SIDES = {"cuda": (4096, 8192, 16384), "cpu": (512, 1024)}
BATCHES = {"cuda": (1, 2, 4, 8, 16, 32), "cpu": (1, 2, 8)}
Section = Callable[[Contenders], dict[str, Any]]


def main() -> None:
    options = _parse()
    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    base_name = options.base or ("sd15-random" if device.type == "cuda" else "tiny")
    report: dict[str, Any] = {"base": base_name} | environment(device)
    path = options.out / f"{_slug(report['device'])}-{base_name}.json"
    with tempfile.TemporaryDirectory() as folder:
        contenders = Contenders(bench_base(base_name, Path(folder)), device, Path(folder), False)
        sections = SECTIONS | ({"compiled": compiled} if options.compile else {})
        for name, section in sections.items():
            if time.monotonic() - began > options.limit_s:
                report[name] = "left out: the time was up"
            else:
                print(f"{time.monotonic() - began:6.1f} s: {name}", flush=True)
                report[name] = _tried(section, contenders)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(_with_mfu(report), indent=2) + "\n")
    print(json.dumps(report, indent=2))
    print(f"written to {path}")


def matmul(contenders: Contenders) -> dict[str, Any]:
    """TFLOP/s of square products in the engine's precision: the ceiling."""
    device, dtype = contenders.device, contenders.runner.backbone.dtype
    found = {}
    for side in MATMUL_SIDES[device.type]:
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        found[str(side)] = 2e-12 * side**3 / _seconds(device, lambda a=a, b=b: a @ b)
    return {"tflops_by_side": found, "ceiling_tflops": max(found.values())}


@torch.inference_mode()
def networks(contenders: Contenders) -> dict[str, Any]:
    """Milliseconds of one step (UNet and sampler, as served), of the codec and of SCB, by rows."""
    sizes = BATCHES[contenders.device.type]
    return {
        "step_ms": {str(rows): 1e3 * _step_seconds(contenders, rows) for rows in sizes},
        "codec_ms": {str(rows): _codec_ms(contenders, rows) for rows in sizes[:5:2]},
        "scb_ms": {str(n): _scb_ms(contenders, n) for n in (1, contenders.base.steps)},
    }


def _codec_ms(contenders: Contenders, rows: int) -> dict[str, float]:
    base, backbone, device = contenders.base, contenders.runner.backbone, contenders.device
    side = base.side // backbone.patch_size
    shape = (rows, backbone.unet.config["in_channels"], side, side)
    latents = torch.randn(shape, device=device, dtype=backbone.dtype)
    images = torch.zeros(rows, 3, base.side, base.side)
    return {
        "encode": 1e3 * _seconds(device, lambda: backbone.encode(images)),
        "decode": 1e3 * _seconds(device, lambda: backbone.decode(latents)),
    }


def _scb_ms(contenders: Contenders, num_steps: int) -> float:
    """Of one call for `num_steps` timesteps of one photo."""
    runner, base, device = contenders.runner, contenders.base, contenders.device
    plugin = runner.store.get(base.plugins[0])
    edit = contenders.edits(1, 1)[0]
    cond = runner.backbone.encode(to_unit(edit.pixels))
    tokens = plugin.tpb(runner.backbone.image_features([edit.pixels]))
    timesteps = runner.noise_schedule.table(base.steps).timesteps[:num_steps].to(device)
    inputs = (plugin, cond, timesteps, tokens, runner.step_widths, 2**40)
    return 1e3 * _seconds(device, lambda: Complements(*inputs))


def _step_seconds(contenders: Contenders, rows: int) -> float:
    """Median of the steps of a full engine in which it does nothing else."""
    engine = contenders.engine(rows)
    for _ in range(2):  # the first captures the graphs
        seconds = [s for s, is_plain in _steps(engine, contenders, rows) if is_plain]
    return statistics.median(seconds)


def _steps(engine: Engine, contenders: Contenders, rows: int) -> Iterator[tuple[float, bool]]:
    """Seconds of every step, and whether nobody was admitted or decoded in it."""
    for edit in contenders.edits(rows, 8):
        engine.add(edit)
    number = 0
    while engine.has_work:
        began = _now(contenders.device)
        engine.step()
        number += 1
        yield _now(contenders.device) - began, 2 < number < contenders.base.steps


def latency(contenders: Contenders) -> dict[str, Any]:
    """Seconds of one edit alone, from add() to its image."""
    engine = contenders.engine(1)
    edit = contenders.edits(1, 1)
    drain(engine, edit)
    seconds = []
    for _ in range(NUM_RUNS):
        began = time.perf_counter()
        drain(engine, edit)
        seconds.append(time.perf_counter() - began)
    return {"median_s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds)}


def throughput(contenders: Contenders) -> dict[str, Any]:
    """Edits per second of a full engine over 8 plugins, by max_batch_size."""
    found = {}
    for size in BATCHES[contenders.device.type]:
        engine = contenders.engine(size)
        edits = contenders.edits(max(8, 2 * size), 8)
        drain(engine, edits)
        began = time.perf_counter()
        drain(engine, edits)
        found[str(size)] = len(edits) / (time.perf_counter() - began)
    return {"edits_per_s": found}


def compiled(contenders: Contenders) -> dict[str, Any]:
    """Milliseconds of a step with torch.compile on the UNet, and how long compiling took."""
    runner = contenders.runner
    runner.backbone.unet.compile(dynamic=False)
    contenders.runner = ModelRunner(runner.backbone, runner.store)
    found: dict[str, Any] = {"step_ms": {}, "compile_s": {}}
    for rows in (1, 8):
        began = time.perf_counter()
        drain(contenders.engine(rows), contenders.edits(rows, 8))
        found["compile_s"][str(rows)] = time.perf_counter() - began
        found["step_ms"][str(rows)] = 1e3 * _step_seconds(contenders, rows)
    return found


def memory(contenders: Contenders) -> dict[str, Any]:
    """The most that the sections before had allocated on the device."""
    if contenders.device.type != "cuda":
        return {}
    return {"max_allocated_gib": torch.cuda.max_memory_allocated() / 2**30}


def _with_mfu(report: dict[str, Any]) -> dict[str, Any]:
    """MFU by batch size, once ceiling and throughput are known."""
    tflop = TFLOP_PER_EDIT.get(report["base"])
    rates = report.get("throughput")
    ceiling = report.get("matmul")
    if tflop and isinstance(rates, dict) and isinstance(ceiling, dict) and "edits_per_s" in rates:
        rates["mfu"] = {
            size: tflop * rate / ceiling["ceiling_tflops"]
            for size, rate in rates["edits_per_s"].items()
        }
    return report


def _tried(section: Section, contenders: Contenders) -> dict[str, Any] | str:
    """What it measured, or why it could not: the other sections go on."""
    try:
        return section(contenders)
    except RuntimeError as error:
        return f"failed: {error}"


def _seconds(device: torch.device, run: Callable[[], Any]) -> float:
    """Median of NUM_RUNS, after one that warms up."""
    run()
    seconds = []
    for _ in range(NUM_RUNS):
        began = _now(device)
        run()
        seconds.append(_now(device) - began)
    return statistics.median(seconds)


def _now(device: torch.device) -> float:
    """Wall seconds, after all that was started on the device has ended."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Everything worth knowing of a new GPU.")
    parser.add_argument("--base", choices=("nano", *SIZES), help="none: sd15-random on CUDA")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too")
    parser.add_argument("--limit-s", type=float, default=480, help="no section starts after this")
    return parser.parse_args()


SECTIONS: dict[str, Section] = {
    "matmul": matmul,
    "throughput": throughput,
    "latency": latency,
    "networks": networks,
    "memory": memory,
}

if __name__ == "__main__":
    main()
