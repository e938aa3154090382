"""Selector measures on a case worked out by hand, and the files they are read from."""

import json
from pathlib import Path

import pytest

from service.errors import InvalidRequest
from service.evaluation.selector import Prediction, measure, predict_instructions

ROWS = [
    {"id": "1", "text": "", "labels": ["derain"], "kind": "single"},
    {"id": "2", "text": "", "labels": ["dehaze", "derain"], "kind": "multi", "ordered": True},
    {"id": "3", "text": "", "labels": [], "kind": "non"},
    {"id": "4", "text": "", "labels": ["dehaze"], "kind": "single"},
]
PREDICTED = [
    Prediction("1", ("derain",), {"derain": 0.9, "dehaze": 0.1}),
    Prediction("2", ("derain", "dehaze"), {"derain": 0.8, "dehaze": 0.7}),
    Prediction("3", ("derain",), {"derain": 0.85, "dehaze": 0.2}),
    Prediction("4", (), {"derain": 0.0, "dehaze": 0.3}),
]


def test_measures_of_a_case_by_hand() -> None:
    result = measure(ROWS, PREDICTED)
    assert result["exact_set"] == result["zta"] == 0.5
    assert result["exact_set_by_kind"] == {"single": 0.5, "multi": 1.0, "non": 0.0}
    assert result["order"] == 0.0
    # derain: 2 of 3 given are right, 2 of 2 found; dehaze: 1 of 1, 1 of 2.
    assert result["CP"] == pytest.approx((2 / 3 + 1) / 2)
    assert result["CR"] == pytest.approx((1 + 1 / 2) / 2)
    assert (result["OP"], result["OR"]) == (0.75, 0.75)
    # derain ranks 1, 3 of three; dehaze ranks 1 and 2.
    assert result["map"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)


def test_predictions_are_written_in_execution_order(tmp_path: Path) -> None:
    instructions, predictions = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [
        {
            "id": "a",
            "text": "First brighten it, then remove the rain",
            "labels": ["lowlight", "derain"],
        },
        {"id": "b", "text": "hello", "labels": []},
    ]
    instructions.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    summary = predict_instructions(instructions, predictions, Path("plugins_store"), "nano")
    written = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert [row["labels"] for row in written] == [["lowlight", "derain"], []]
    assert [row["id"] for row in written] == ["a", "b"]
    assert len(written[0]["scores"]) >= 12
    assert summary["items"] == 2 and summary["exact_set"] == 1.0


def test_without_labels_nothing_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"id": "a", "text": "hello"}\n')
    summary = predict_instructions(path, tmp_path / "out.jsonl", Path("plugins_store"), "nano")
    assert set(summary) == {"items", "threshold"}


@pytest.mark.parametrize("line", ["{", '{"id": "a"}', "[]"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InvalidRequest, match="in.jsonl:1"):
        predict_instructions(path, tmp_path / "out.jsonl", Path("plugins_store"), "nano")
