"""Order: clauses arranged as the sentence says they are to be done."""

from collections.abc import Mapping, Sequence

import pytest

from service.selector.order import arranged_clauses, stated_order

WORDS = {"derain": "rain", "dehaze": "haze", "deblur": "sharpen", "lowlight": "bright"}


def score_by_word(texts: Sequence[str]) -> list[Mapping[str, float]]:
    return [{task: float(word in text) for task, word in WORDS.items()} for text in texts]


@pytest.mark.parametrize(
    "text",
    [
        "first remove the rain, then sharpen it",
        "Remove the rain and then sharpen it.",
        "sharpen it after removing the rain",
        "Before you sharpen it, remove the rain",
        "Once the rain is gone, sharpen the car",
        "sharpen the car, but first remove the rain",
        "(a) remove the rain, (b) sharpen",
        "1. remove the rain 2. sharpen",
        "sharpen last, rain removal first",
        "sharpen it at the very end, and remove the rain",
        "sharpen it, but the rain goes first",
        "follow the rain removal with sharpening",
        "finish by sharpening it, but start with the rain",
        "Sharpen it. Before that, take the rain away.",
        "rain removal, followed by sharpening",
        "rain -> sharpen",
        "remove the rain, and when you are finished sharpen it",
        "sharpening comes after the rain removal",
        "please sharpen only as soon as the rain is out",
    ],
)
def test_a_stated_order_wins(text: str) -> None:
    for tasks in (("derain", "deblur"), ("deblur", "derain")):
        assert stated_order(text, tasks, score_by_word, 0.5) == ("derain", "deblur")


def test_three_tasks_in_a_row() -> None:
    text = "Start with the haze, continue with the rain, and at the end brighten it."
    tasks = ("derain", "dehaze", "lowlight")
    assert stated_order(text, tasks, score_by_word, 0.5) == ("dehaze", "derain", "lowlight")


def test_ordinals_count() -> None:
    text = "brighten third, haze first, rain second"
    tasks = ("derain", "dehaze", "lowlight")
    assert stated_order(text, tasks, score_by_word, 0.5) == ("dehaze", "derain", "lowlight")


@pytest.mark.parametrize(
    "text",
    [
        "sharpen it and remove the rain",
        "sharpen the photo of last summer and remove the rain",
        "sharpen it and remove the rain before I post it",
        "when I was in Rome it rained; sharpen it too",
        "sharpen the car next to the house, remove the rain",
    ],
)
def test_without_a_stated_order_the_tasks_stay_as_they_are(text: str) -> None:
    assert stated_order(text, ("derain", "deblur"), score_by_word, 0.5) == ("derain", "deblur")


def test_cues_that_stand_alone_join_their_clause() -> None:
    clauses = arranged_clauses("remove the rain and, as a last step, sharpen it, to finish")
    assert clauses == ["remove the rain", "as a last step sharpen it to finish"]


def test_a_single_task_is_not_scored_again() -> None:
    def refuse(texts: Sequence[str]) -> list[Mapping[str, float]]:
        raise AssertionError(f"scored {texts}")

    assert stated_order("first derain, then derain", ("derain",), refuse, 0.5) == ("derain",)
