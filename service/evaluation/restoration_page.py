"""The HTML report of a restoration run, and the table for the terminal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.evaluation.page import bars, heading, paragraph, photo, table, write_page
from service.evaluation.restoration import Evaluation
from service.evaluation.sheet import Section, draw_section

TILE_PX = 176
Summary = dict[str, Any]


def write_restoration_page(path: Path, evaluation: Evaluation, photos_per_task: int = 2) -> None:
    """One self-contained file; photos_per_task rows of pictures for each part."""
    report = evaluation.report
    blocks = [
        paragraph(
            f"Photos at {report['size']} px, default steps of every plugin, seed {report['seed']}. "
            "Every photo is damaged in the same way at each run. Means over the photos; PSNR in dB."
        ),
        *(paragraph(line) for line in report["not_measured"]),
    ]
    for part, (title, render) in PARTS.items():
        if part in report:
            blocks += [heading(title), *render(report[part])]
            for section in evaluation.sections[part]:
                blocks.append(_pictures(section, photos_per_task))
    write_page(path, "Restoration, measured", blocks)


def _pictures(section: Section, count: int) -> str:
    """The section's first rows; its title becomes the caption."""
    rows = section.photos[:count]
    per_row = 2 if len(rows[0]) <= 2 else 1
    sheet = draw_section(Section("", rows), per_row, TILE_PX)
    return photo(sheet, section.title)


def _tasks(tasks: dict[str, Summary]) -> list[str]:
    names = list(tasks)
    columns = ["task", "photos", "PSNR in", "out", "gain", "SSIM in", "out", "MS-SSIM in", "out"]
    columns += ["GMSD in", "out", "best classical method", "its PSNR"]
    rows = [
        [
            name, m["num_photos"], *_pair(m, "psnr", 2), f"{m['psnr_gain']:+.2f}",
            *_pair(m, "ssim", 3), *_pair(m, "ms_ssim", 3),
            *_pair(m, "gmsd", 3),
            m["classical_method"], f"{m['classical_psnr']:.2f}",
        ]
        for name, m in tasks.items()
    ]  # fmt: skip
    blocks = [table("Lower is better for GMSD, higher for the others.", columns, rows)]
    series = {
        "input": [tasks[name]["psnr_in"] for name in names],
        "best classical": [tasks[name]["classical_psnr"] for name in names],
        "plugin": [tasks[name]["psnr_out"] for name in names],
    }
    blocks.append(bars("PSNR to the truth", names, series, "dB"))
    return blocks + _colour(tasks) + _perceptual(tasks)


def _pair(summary: Summary, metric: str, digits: int) -> list[str]:
    """The metric before and after, as text; empty where it was not measured."""
    values = (summary.get(f"{metric}_{when}") for when in ("in", "out"))
    return ["" if value is None else f"{value:.{digits}f}" for value in values]


def _colour(tasks: dict[str, Summary]) -> list[str]:
    return [
        paragraph(
            f"{name}: mean CIEDE2000 to the truth {m['ciede2000_in']:.2f} -> "
            f"{m['ciede2000_out']:.2f} ({100 * m['ciede2000_gain'] / m['ciede2000_in']:+.1f} %); "
            f"best classical {m['classical_method']} {m['classical_ciede2000']:.2f}. "
            "Lower is better; the grey input is where it starts."
        )
        for name, m in tasks.items()
        if "ciede2000_in" in m
    ]


def _perceptual(tasks: dict[str, Summary]) -> list[str]:
    names = [name for name in ("lpips", "fid", "kid") if any(name in m for m in tasks.values())]
    if not names:
        return []
    rows = [[task, *(m.get(name) for name in names)] for task, m in tasks.items()]
    return [table("Lower is better; KID x 1000.", ["task", *map(str.upper, names)], rows)]


def _generation(tasks: dict[str, Summary]) -> list[str]:
    columns = ["task", "photos", "content PSNR", "least", "frame under marks", "contrast of marks"]
    rows = [
        [
            name + suffix.replace("_", ", "), m["num_photos"], f"{m[f'content_psnr{suffix}']:.2f}",
            f"{m[f'content_psnr_least{suffix}']:.2f}", f"{100 * m[f'marks_share{suffix}']:.1f} %",
            f"{m[f'marks_contrast{suffix}']:+.3f}",
        ]
        for name, m in tasks.items()
        for suffix in ("", "_procedural")
    ]  # fmt: skip
    text = (
        "Marks are what is thin and brighter than before (a top-hat of the change in lightness). "
        "Content is the rest of the frame, a veil over it included."
    )
    return [paragraph(text), table("Added weather", columns, rows)]


def _sequences(mixtures: dict[str, Summary]) -> list[str]:
    blocks = []
    for name, m in mixtures.items():
        rows = [["input", f"{m['psnr_in']:.2f}", None]]
        rows += [[p, f"{v:.2f}", f"{m['ssim'][p]:.3f}"] for p, v in m["psnr"].items()]
        caption = (
            f"{name}, {m['num_photos']} photos: {m['best_sequence']} is {m['over_single']:+.2f} dB "
            f"over {m['best_single']} alone"
        )
        blocks.append(table(caption, ["plugins", "PSNR", "SSIM"], rows))
    return blocks


def _clean(tasks: dict[str, Summary]) -> list[str]:
    floor = next(iter(tasks.values()))["floor"]
    columns = ["plugin", "photos", "mean PSNR", "least", "below the floor", "changed most"]
    rows = [
        [
            name, m["num_photos"], f"{m['psnr']:.2f}", f"{m['psnr_least']:.2f}",
            m["num_below_floor"], m["least"],
        ]
        for name, m in tasks.items()
    ]  # fmt: skip
    return [table(f"PSNR of the output to the clean photo; floor {floor:g} dB", columns, rows)]


def _unpaired(tasks: dict[str, Summary]) -> list[str]:
    names = list(next(iter(tasks.values()))["before"])
    rows = [
        [
            name, m["num_photos"], f"{m['psnr_to_input']:.1f}",
            *(f"{m['before'][s]:.3f} \u2192 {m['after'][s]:.3f}" for s in names),
        ]
        for name, m in tasks.items()
    ]  # fmt: skip
    text = "No truth is known here: these statistics are no scores. Look at the pictures."
    return [paragraph(text), table("", ["task", "photos", "PSNR to input", *names], rows)]


PARTS: dict[str, tuple[str, Callable[[dict[str, Summary]], list[str]]]] = {
    "tasks": ("Damaged photos", _tasks),
    "generation": ("Added rain and snow", _generation),
    "sequences": ("Two damages, two plugins", _sequences),
    "clean": ("Clean photos", _clean),
    "pairs": ("Given pairs", _tasks),
    "unpaired": ("Real photos", _unpaired),
}


def terminal_table(report: dict[str, Any]) -> str:
    """Means per task, one line each."""
    lines = [f"{'task':<10} {'PSNR in -> out':>16} {'SSIM in -> out':>16}  best classical"]
    for task, m in {**report.get("tasks", {}), **report.get("pairs", {})}.items():
        lines.append(
            f"{task:<10} {m['psnr_in']:>7.2f} -> {m['psnr_out']:.2f} "
            f"{m['ssim_in']:>8.3f} -> {m['ssim_out']:.3f}  "
            f"{m['classical_psnr']:.2f} ({m['classical_method']})"
        )
        if "ciede2000_in" in m:
            lines.append(
                f"{'':<10} CIEDE2000 {m['ciede2000_in']:.2f} -> {m['ciede2000_out']:.2f}, "
                f"best classical {m['classical_ciede2000']:.2f}"
            )
    for task, m in report.get("generation", {}).items():
        lines.append(
            f"{task:<10} content {m['content_psnr']:.2f} dB, marks on {m['marks_share']:.1%}; "
            f"procedural: {m['content_psnr_procedural']:.2f} dB, "
            f"{m['marks_share_procedural']:.1%}"
        )
    for name, m in report.get("sequences", {}).items():
        plans = ", ".join(f"{plan} {value:.2f}" for plan, value in m["psnr"].items())
        lines.append(f"{name}: {m['psnr_in']:.2f} -> {plans} ({m['over_single']:+.2f} dB)")
    for task, m in report.get("clean", {}).items():
        lines.append(
            f"clean photos through {task}: {m['psnr']:.2f} dB, least {m['psnr_least']:.2f} "
            f"({m['least']}), {m['num_below_floor']} below {m['floor']:g}"
        )
    for task, m in report.get("unpaired", {}).items():
        lines.append(f"real photos through {task}: {m['num_photos']}")
    return "\n".join([*lines, *report["not_measured"]])
