"""The HTML report of the ablations: the order of the variants as it came out."""

from pathlib import Path
from typing import Any

from service.evaluation.ablations.run import FULL, RECONSTRUCTION, REGRESSION
from service.evaluation.page import bars, heading, paragraph, photo, table, write_page
from service.evaluation.sheet import Section, draw_section

TILE_PX = 150
TABLE_3 = ("inversion + editing", "TPB", "TPB + inversion", "SCB", RECONSTRUCTION, FULL)
RIVALS = (FULL, "SD img2img", "inversion + editing", "ControlNet", REGRESSION)
# Desnowing and dehazing FID of the paper's Table 3, desnowing FID of Table 4; lower is better.
PAPER_TABLE_3 = {
    "inversion + editing": (48.54, 35.05), "TPB": (36.02, 37.73), "TPB + inversion": (34.87, 33.05),
    "SCB": (34.71, 36.16), RECONSTRUCTION: (34.50, 35.94), FULL: (34.30, 34.68),
}  # fmt: skip
PAPER_TABLE_4 = {
    "E-1": 34.33, "E-2": 34.46, "E-3": 36.58, "E-4": 37.41,
    "D-4": 37.71, "D-3": 34.59, "D-2": 34.20, "D-1": 34.30,
}  # fmt: skip
PAPER_TABLE_6 = {
    "without VP": "NaN", "without TP": "0.625", "N = 1": "0.559", "N = 3": "0.648",
    "N = 5": "0.725", "N = 7": "0.779", "N = 15": "0.817",
}  # fmt: skip


def write_ablations_page(path: Path, report: dict[str, Any], sections: list[Section]) -> None:
    """One self-contained file."""
    recipe = report["recipe"]
    blocks = [
        paragraph(
            f"Every trained variant: {recipe['steps']} steps of {recipe['batch_size']} crops of "
            f"{recipe['size']} px from {recipe['num_photos']} photos, the same crops in the same "
            f"order, from a fresh start on the frozen base {recipe['base']!r}. Measured on "
            f"{report['num_photos']} held-out photos at {recipe['held_out_size']} px. One seed: "
            "small differences say nothing."
        ),
        paragraph(
            "The base predicts a change of the photo, so in every variant its output is added to "
            "the condition latent: without SCB the content is still there, which it is not in the "
            "paper's. The base was trained together with an SCB at D-1 and with a prompt per task; "
            "that favours D-1 here. The prompt stands in for text, which this base does not read."
        ),
    ]
    for task, rows in report["tasks"].items():
        blocks += _task(task, rows, report["baselines"][task])
    if "selector" in report:
        blocks += _selector(report["selector"])
    blocks += [photo(draw_section(Section("", s.photos), 1, TILE_PX), s.title) for s in sections]
    write_page(path, "Ablations and rivals, measured", blocks)


def _task(
    task: str, rows: dict[str, dict[str, Any]], baselines: dict[str, dict[str, float]]
) -> list[str]:
    columns = ["variant", "PSNR", "SSIM", "GMSD", "trained parameters", "training s"]
    best = {1: True, 2: True, 3: False}
    start = ["input", *_metrics(baselines["input"]), None, None]
    third = [
        [name, *_cells(rows[name]), *_paper(PAPER_TABLE_3.get(name))]
        for name in TABLE_3
        if name in rows
    ]
    fourth = [[place, *_cells(row), PAPER_TABLE_4.get(place)] for place, row in _places(rows)]
    rivals = [[name, *_cells(rows[name])] for name in RIVALS if name in rows]
    rivals += [
        [f"{name} (classical)", *_metrics(values), None, None]
        for name, values in baselines.items()
        if name != "input"
    ]
    return [
        heading(f"{task}: designs of the plugin (Table 3)"),
        paragraph(_verdict([(str(row[0]), row[1]) for row in third], FULL)),
        table(
            "Paper: FID, lower is better.",
            [*columns, "paper, desnow", "paper, dehaze"],
            [[*start, None, None], *third],
            best,
        ),
        heading(f"{task}: where SCB enters (Table 4)"),
        paragraph(_verdict([(str(row[0]), row[1]) for row in fourth], "D-1")),
        table("Paper: FID of desnowing.", [*columns, "paper"], fourth, best),
        heading(f"{task}: rivals"),
        paragraph(_verdict([(str(row[0]), row[1]) for row in rivals], FULL)),
        table("Trained on the same crops where they train.", columns, [start, *rivals], best),
        bars(
            "PSNR of every variant", list(rows), {"PSNR": [r["psnr"] for r in rows.values()]}, "dB"
        ),
    ]


def _selector(rows: dict[str, dict[str, float]]) -> list[str]:
    kinds = list(next(iter(rows.values())))
    cells = [[name, *values.values(), PAPER_TABLE_6.get(name)] for name, values in rows.items()]
    return [
        heading("Selector: heads and negatives (Table 6)"),
        paragraph(
            "Zero-tolerance accuracy on generated sentences. Only the heads are trained, on a "
            "frozen sentence encoder and with eq. 6 alone; the selector that ships is trained "
            "whole. The paper's column is single + non-existing."
        ),
        table("", ["variant", *kinds, "paper"], cells, {i: True for i in (1, 2, 3)}),
    ]


def _verdict(scores: list[tuple[str, object]], ours: str) -> str:
    """The order by PSNR, best first, and where the paper's choice stands in it."""
    ordered = [name for name, _ in sorted(scores, key=lambda item: -float(str(item[1])))]
    place = ordered.index(ours) + 1 if ours in ordered else None
    stands = f" {ours}, the paper's design, is number {place} of {len(ordered)}." if place else ""
    return f"By PSNR, best first: {', '.join(ordered)}.{stands}"


def _places(rows: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    named = {n.removeprefix("SCB at "): row for n, row in rows.items() if n.startswith("SCB at ")}
    if FULL in rows:
        named["D-1"] = rows[FULL]
    return [(place, named[place]) for place in PAPER_TABLE_4 if place in named]


def _metrics(values: dict[str, Any]) -> list[object]:
    return [f"{values['psnr']:.2f}", f"{values['ssim']:.3f}", f"{values['gmsd']:.3f}"]


def _cells(row: dict[str, Any]) -> list[object]:
    return [*_metrics(row), f"{row['trained_parameters']:,}", row["training_s"]]


def _paper(values: tuple[float, float] | None) -> list[object]:
    return [f"{value:.2f}" for value in values] if values else [None, None]
