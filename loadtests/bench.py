"""Goals G1 to G10 of the engine, side by side in one run, as ratios.

    python -m loadtests.bench [--base tiny] [--only G1,G9] [--no-compile] [--json FILE]

The same edits run through our engine, our engine at max_batch=1, a reference-style loop, and
diffusers' own classes, in turns (A B A B), five rounds or more each; a ratio is one of medians.
"""

import argparse
import tempfile
from datetime import date
from pathlib import Path

import torch

from loadtests import engine_goals, load_goals, service_goal
from loadtests.bench_bases import SIZES, bench_base
from loadtests.contenders import Contenders
from loadtests.goals import (
    Result,
    environment,
    figures,
    print_table,
    write_json,
    write_table,
)
from loadtests.side_by_side import ROUNDS, Clock

MEASURES = engine_goals.MEASURES | load_goals.MEASURES | service_goal.MEASURES


def main() -> None:
    options = _parse()
    torch.set_num_threads(options.threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device(options.device)
    regime = "gpu" if device.type == "cuda" else ("tiny" if options.base == "tiny" else "cpu")
    clock = Clock(is_cpu=device.type == "cpu" and options.threads == 1)
    with tempfile.TemporaryDirectory() as folder:
        base = bench_base(options.base, Path(folder))
        contenders = Contenders(base, device, Path(folder), options.compile)
        results: list[Result] = []
        for goals, measure in MEASURES.items():
            if not options.only or set(goals) & set(options.only.split(",")):
                print(f"measuring {', '.join(goals)} ...", flush=True)
                results += measure(contenders, clock, options.rounds)
    print_table(results, regime)
    if options.json:
        head = {"base": base.name, "side": base.side, "steps": base.steps,
                "clock": "cpu" if clock.is_cpu else "wall"}  # fmt: skip
        write_json(options.json, head | environment(device), results, regime)
    if options.page:
        on = f"{environment(device)['device']}, torch {torch.__version__}, {date.today()}"
        header = ["goal", on, f"limit on {regime}"]
        write_table(options.page, "goals", header, figures(results, regime))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The engine's goals, measured side by side.")
    parser.add_argument("--base", choices=("nano", *SIZES), default="tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the networks")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", default="", help="goals to measure, e.g. G1,G9; empty: all")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True,
                        help="torch.compile for diffusers' classes")  # fmt: skip
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    parser.add_argument("--page", type=Path, help="put the table into this page, at its marker")
    return parser.parse_args()


if __name__ == "__main__":
    main()
