"""The mapping table: order, compound wishes, and errors that name the file."""

from pathlib import Path

import pytest

from service.errors import InvalidRequest
from service.selector.mapping import MappingTable

TABLE = """
order: [restore, derain, colorize]
titles: {restore: Repair, derain: Remove rain, colorize: Colorize}
compounds:
  - {wish: old photo, phrases: ["restore * old photo"], tasks: [restore, colorize], margin: 0.3}
"""


@pytest.fixture
def table(tmp_path: Path) -> MappingTable:
    path = tmp_path / "mapping.yaml"
    path.write_text(TABLE)
    return MappingTable.load(path)


def test_tasks_are_sorted_by_the_table_and_new_ones_come_last(table: MappingTable) -> None:
    order = table.canonical({"zoom", "colorize", "restore", "derain"})
    assert order == ("restore", "derain", "colorize", "zoom")


def test_only_scores_at_the_threshold_are_selected(table: MappingTable) -> None:
    scores = {"restore": 0.5, "derain": 0.49, "colorize": -0.2}
    assert table.selected("mend it", scores, 0.5) == {"restore"}


@pytest.mark.parametrize(
    ("text", "colorize", "expected"),
    [
        ("Restore my old photo!", 0.3, {"restore", "colorize"}),
        ("restore this very nice old photo", 0.3, {"restore", "colorize"}),
        ("restore the scratched and torn edges of it, old photo fan", 0.3, {"restore"}),
        ("restore my old photo but keep it black and white", 0.1, {"restore"}),
        ("restore my photo", 0.3, {"restore"}),
    ],
)
def test_a_compound_wish_lowers_the_bar_for_its_tasks(
    table: MappingTable, text: str, colorize: float, expected: set[str]
) -> None:
    scores = {"restore": 0.7, "derain": 0.3, "colorize": colorize}
    assert table.selected(text, scores, 0.5) == expected


def test_a_malformed_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text("order: [a]\nheadings: {}\n")
    with pytest.raises(InvalidRequest, match="mapping.yaml is malformed"):
        MappingTable.load(path)
    with pytest.raises(InvalidRequest, match="missing"):
        MappingTable.load(tmp_path / "other.yaml")


def test_the_table_of_the_store_knows_every_label() -> None:
    table = MappingTable.load(Path("plugins_store/mapping.yaml"))
    assert set(table.file.order) == set(table.file.titles)
    assert len(table.file.order) == 12
