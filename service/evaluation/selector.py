"""Measure the selector on labelled sentences: exact sets, precision and recall, mAP, order."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import InvalidRequest
from service.images import Pixels
from service.selector.planner import Planner, load_own_planner

# Labelled by hand, in other words than the training corpus, and never trained on.
OWN_INSTRUCTIONS = Path(__file__).parent / "instructions.jsonl"


@dataclass(frozen=True)
class Prediction:
    """labels in execution order."""

    id: str
    labels: tuple[str, ...]
    scores: dict[str, float]


def predict_instructions(
    instructions: Path, predictions: Path | None, store: Path, base: str
) -> dict[str, Any]:
    """Plan every sentence of a JSONL file ({"id", "text"}); write one prediction per line if asked.

    Every label counts, its plugin installed or not. Returns the number of sentences and, if each
    line has "labels", the measures.
    """
    rows = _read(instructions)
    planner = load_own_planner(store, base)
    predicted = [predict(planner, row) for row in rows]
    if predictions is not None:
        lines = [json.dumps(p.__dict__, ensure_ascii=False) + "\n" for p in predicted]
        predictions.write_text("".join(lines), encoding="utf-8")
    summary: dict[str, Any] = {"items": len(rows), "threshold": planner.scorer.config.threshold}
    if rows and all("labels" in row for row in rows):
        summary |= measure(rows, predicted)
    return summary


def predict(planner: Planner, row: Mapping[str, Any], pixels: Pixels | None = None) -> Prediction:
    """The plan for the row's text; `pixels` take part where VP is trained."""
    plan = planner.plan(pixels, row["text"])
    scores = {name: round(score, 5) for name, score in plan.scores.items()}
    return Prediction(row["id"], tuple(task.plugin for task in plan.tasks), scores)


def measure(rows: Sequence[Mapping[str, Any]], predicted: Sequence[Prediction]) -> dict[str, Any]:
    """Exact-set accuracy (ZTA on sentences) overall and by kind, order, CP to OF1, mAP."""
    exact = [set(p.labels) == set(row["labels"]) for row, p in zip(rows, predicted, strict=True)]
    same = [list(p.labels) == list(row["labels"]) for row, p in zip(rows, predicted, strict=True)]
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for row, is_right in zip(rows, exact, strict=True):
        by_kind[row.get("kind", "all")].append(is_right)
    ordered = [is_same for row, is_same in zip(rows, same, strict=True) if row.get("ordered")]
    return {
        "exact_set": _mean(exact),
        "zta": _mean(exact),
        "exact_set_by_kind": {kind: _mean(values) for kind, values in by_kind.items()},
        "order": _mean(ordered),
        **label_measures(rows, predicted),
        "map": mean_average_precision(rows, predicted),
    }


def label_measures(
    rows: Sequence[Mapping[str, Any]], predicted: Sequence[Prediction]
) -> dict[str, float]:
    """C*: per-class means over the classes that occur; O*: all decisions pooled; *F1: harmonic."""
    wanted, given, right = (defaultdict[str, int](int) for _ in range(3))
    for row, prediction in zip(rows, predicted, strict=True):
        for counts, labels in (
            (wanted, set(row["labels"])),
            (given, set(prediction.labels)),
            (right, set(row["labels"]) & set(prediction.labels)),
        ):
            for label in labels:
                counts[label] += 1
    cp = _mean([_ratio(right[label], given[label]) for label in wanted])
    cr = _mean([_ratio(right[label], wanted[label]) for label in wanted])
    op = _ratio(sum(right.values()), sum(given.values()))
    recall = _ratio(sum(right.values()), sum(wanted.values()))
    return {
        "CP": cp, "CR": cr, "CF1": _ratio(2 * cp * cr, cp + cr),
        "OP": op, "OR": recall, "OF1": _ratio(2 * op * recall, op + recall),
    }  # fmt: skip


def mean_average_precision(
    rows: Sequence[Mapping[str, Any]], predicted: Sequence[Prediction]
) -> float:
    """Mean over the labels that occur of the average precision of their scores."""
    labels = sorted({label for row in rows for label in row["labels"]})
    return _mean([_average_precision(label, rows, predicted) for label in labels])


def _average_precision(
    label: str, rows: Sequence[Mapping[str, Any]], predicted: Sequence[Prediction]
) -> float:
    pairs = [
        (prediction.scores.get(label, -2.0), label in row["labels"])
        for row, prediction in zip(rows, predicted, strict=True)
    ]
    pairs.sort(key=lambda pair: -pair[0])
    hits, total = 0, 0.0
    for rank, (_, is_wanted) in enumerate(pairs, start=1):
        if is_wanted:
            hits += 1
            total += hits / rank
    return _ratio(total, hits)


def _read(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidRequest(f"{path}:{number} is not JSON: {error}") from error
        if not isinstance(row, dict) or not {"id", "text"} <= row.keys():
            raise InvalidRequest(f'{path}:{number} needs "id" and "text"')
        rows.append(row)
    return rows


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
