"""The paper's selector test: what its three settings are made of, and a run on the selector."""

from pathlib import Path

import pytest

from service.errors import InvalidRequest
from service.evaluation.selector_protocol import (
    NONE,
    UNDO,
    read_sentences,
    run_protocol,
    settings,
)
from service.selector.planner import load_planner
from service.training.instructions.bank import load_bank
from service.training.instructions.several import CANONICAL

TINY = {
    "derain": ["Remove the rain.", "No more rain."],
    "dehaze": ["Clear the fog."],
    "rain": ["Let it rain."],
    NONE: ["Crop it."],
}


def test_multi_joins_sentences_of_different_tasks_that_do_not_undo_each_other() -> None:
    rows = settings(TINY, 200, seed=1)["multi"]
    assert {len(row["labels"]) for row in rows} == {2}
    for row in rows:
        assert len(set(row["labels"])) == 2 and set(row["labels"]) not in UNDO
        assert all(any(text in row["text"] for text in TINY[task]) for task in row["labels"])


def test_single_has_every_sentence_once_and_beside_has_one_task_and_one_that_is_none() -> None:
    rows = settings(TINY, 50, seed=1)
    assert [row["text"] for row in rows["single"]] == [
        text for task in TINY if task != NONE for text in TINY[task]
    ]
    beside = rows["single + non-existing"]
    assert all("Crop it." in row["text"] and len(row["labels"]) == 1 for row in beside)
    starts = {row["text"].startswith("Crop it.") for row in beside}
    assert starts == {True, False}


def test_the_seed_decides_the_combinations() -> None:
    assert settings(TINY, 20, seed=1) == settings(TINY, 20, seed=1)
    assert settings(TINY, 20, seed=1) != settings(TINY, 20, seed=2)


def test_our_sentences_cover_every_task_and_are_not_in_the_corpus() -> None:
    sentences = read_sentences()
    assert set(sentences) == {*CANONICAL, NONE}
    bank = load_bank()
    written = {
        text.lower().rstrip(".")
        for lists in (*bank.labels.values(), bank.others, bank.wishes, bank.hints)
        for texts in lists.values()
        for text in texts
    }
    for texts in sentences.values():
        assert not written & {text.lower().rstrip(".") for text in texts}


def test_a_file_without_other_sentences_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sentences.yaml"
    path.write_text("derain: [Remove the rain.]\n")
    with pytest.raises(InvalidRequest, match="none"):
        read_sentences(path)


def test_the_selector_that_ships_passes_the_protocol() -> None:
    report = run_protocol(load_planner(Path("plugins_store"), "nano"), read_sentences(), 40)
    assert report["single"]["zta"] > 0.97
    assert report["multi"]["zta"] > 0.9
    assert report["single + non-existing"]["zta"] > 0.8
    assert set(report["multi"]) >= {"zta", "CP", "OP", "OR", "CF1", "OF1", "map"}
