"""The HTML report of the selector: labelled sentences by kind, and the paper's protocol."""

from pathlib import Path
from typing import Any

from service.evaluation.page import bars, heading, paragraph, table, write_page

MEASURES = {
    "zta": "ZTA", "CP": "CP", "OP": "OP", "OR": "OR", "CF1": "CF1", "OF1": "OF1", "map": "mAP",
}  # fmt: skip
# Table 5 of the paper; None where it gives no value.
PAPER: dict[str, tuple[float | None, ...]] = {
    "single": (0.998, None, 0.998, None, None, 0.998, 0.998),
    "multi": (0.979, 0.988, 0.988, 0.927, 0.956, 0.956, 0.933),
    "single + non-existing": (0.779, 0.814, 0.808, 0.941, 0.872, 0.870, 0.775),
}


def write_selector_page(path: Path, report: dict[str, Any]) -> None:
    """`report`: what `evaluate selector` measured."""
    blocks = [
        paragraph(
            f"{report['items']} sentences, threshold {report['threshold']}. A sentence counts as "
            "right if exactly the tasks it asks for are planned (zero tolerance)."
        )
    ]
    if "exact_set_by_kind" in report:
        blocks += _sentences(report)
    if "protocol" in report:
        blocks += _protocol(report["protocol"])
    write_page(path, "Selector, measured", blocks)


def _sentences(report: dict[str, Any]) -> list[str]:
    kinds: dict[str, float] = report["exact_set_by_kind"]
    rows = [[kind, f"{value:.3f}"] for kind, value in kinds.items()]
    rows += [["all", f"{report['exact_set']:.3f}"], ["order", f"{report['order']:.3f}"]]
    return [
        heading("Labelled sentences"),
        table("Share of sentences with the exact set of tasks", ["kind", "exact"], rows),
        bars("Exact sets by kind of sentence", list(kinds), {"exact": list(kinds.values())}, ""),
    ]


def _protocol(protocol: dict[str, dict[str, float]]) -> list[str]:
    rows: list[list[object]] = []
    for setting, values in protocol.items():
        rows.append([setting, *(f"{values[name]:.3f}" for name in MEASURES)])
        if setting in PAPER:
            rows.append([f"{setting}, paper", *PAPER[setting]])
    text = (
        "Random combinations of task sentences as in the paper. Its sentences and plugins are "
        "others, so its rows are for orientation."
    )
    columns = ["setting", *MEASURES.values()]
    return [heading("The paper's protocol (Table 5)"), paragraph(text), table("", columns, rows)]
