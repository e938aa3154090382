"""The paper's test of the selector (section 4, table 5): random combinations of task sentences.

Single: every sentence that asks for one task. Multi: two or three of them, of different tasks.
Single + non-existing: one of them beside a sentence that asks for what no task does.
"""

import random
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from service.errors import InvalidRequest
from service.evaluation.selector import Prediction, measure, predict
from service.images import Pixels
from service.selector.planner import Planner

NONE = "none"  # the list of sentences that ask for no task
UNDO = ({"derain", "rain"}, {"desnow", "snow"})
Sentences = Mapping[str, Sequence[str]]
Row = dict[str, Any]


def run_protocol(
    planner: Planner,
    sentences: Sentences,
    num_samples: int = 400,
    photos: Sequence[Pixels] = (),
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """ZTA, CP, OP, OR, CF1, OF1 and mAP in each of the three settings.

    photos: pictures that the sentences come with, in turn, so that VP takes part; without any, the
    text prototypes stand in.
    """
    return {
        name: measure(rows, _predicted(planner, rows, photos))
        for name, rows in settings(sentences, num_samples, seed).items()
    }


def settings(sentences: Sentences, num_samples: int, seed: int) -> dict[str, list[Row]]:
    """The labelled rows of every setting; the same seed gives the same ones."""
    rng = random.Random(seed)
    singles = [(text, task) for task in sentences if task != NONE for text in sentences[task]]
    return {
        "single": [_row(number, [one], []) for number, one in enumerate(singles)],
        "multi": [_row(number, _several(singles, rng), []) for number in range(num_samples)],
        "single + non-existing": [
            _beside(number, rng.choice(singles), rng.choice(sentences[NONE]), rng)
            for number in range(num_samples)
        ],
    }


def read_sentences(path: Path | None = None) -> dict[str, list[str]]:
    """Lists of sentences by task, and `none`; our own where no file is given."""
    if path is None:
        text = files("service.evaluation").joinpath("task_sentences.yaml").read_text("utf-8")
    else:
        text = path.read_text(encoding="utf-8")
    loaded = yaml.safe_load(text)
    if not isinstance(loaded, dict) or not loaded.get(NONE) or len(loaded) < 3:
        raise InvalidRequest(f"{path} needs lists of sentences of two tasks or more, and {NONE!r}")
    return {str(task): [str(text) for text in texts] for task, texts in loaded.items()}


def _several(singles: Sequence[tuple[str, str]], rng: random.Random) -> list[tuple[str, str]]:
    """Two or three sentences of different tasks that do not undo each other."""
    while True:
        chosen = rng.sample(singles, rng.choice([2, 3]))
        tasks = {task for _, task in chosen}
        if len(tasks) == len(chosen) and not any(pair <= tasks for pair in UNDO):
            return chosen


def _row(number: int, asked: Sequence[tuple[str, str]], beside: Sequence[str]) -> Row:
    text = " ".join([text for text, _ in asked] + list(beside))
    return {"id": str(number), "text": text, "labels": [task for _, task in asked]}


def _beside(number: int, asked: tuple[str, str], other: str, rng: random.Random) -> Row:
    row = _row(number, [asked], [other])
    return row if rng.random() < 0.5 else {**row, "text": f"{other} {asked[0]}"}


def _predicted(planner: Planner, rows: Sequence[Row], photos: Sequence[Pixels]) -> list[Prediction]:
    return [
        predict(planner, row, photos[index % len(photos)] if photos else None)
        for index, row in enumerate(rows)
    ]
