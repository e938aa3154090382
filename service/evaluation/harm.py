"""Clean photos through every plugin that removes something: they should come back as they were."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.evaluation.cases import Case
from service.evaluation.engine_restore import Restore
from service.evaluation.measured import COLOUR_TASK, restored
from service.evaluation.metrics import mean_psnr, psnr, to_image, to_pixels
from service.training.degradations import GENERATION, Image
from service.training.photos import read_photo, to_square

FLOOR_DB = 28.0  # below it, a difference to the clean photo is easily seen


@dataclass(frozen=True)
class Untouched:
    """One clean photo and what a plugin made of it."""

    case: Case
    output: Image
    psnr_db: float


def removes_something(task: str) -> bool:
    """Whether a clean photo should pass unchanged: not so where colour or weather is added."""
    return task not in (COLOUR_TASK, *GENERATION)


def run_clean(photos: list[Path], task: str, size: int, restore: Restore) -> list[Untouched]:
    """Clean photos through the plugin of `task`."""
    return [
        Untouched(case, output, psnr(output, case.target))
        for case, output in restored(_clean_cases(photos, size), (task,), restore)
    ]


def summarise_clean(found: list[Untouched]) -> dict[str, object]:
    """Mean and least PSNR of the output to the clean photo, and how many fall below the floor."""
    least = min(found, key=lambda item: item.psnr_db)
    return {
        "num_photos": len(found),
        "psnr": round(mean_psnr(item.psnr_db for item in found), 4),
        "psnr_least": round(mean_psnr([least.psnr_db]), 4),
        "least": least.case.name,
        "num_below_floor": sum(item.psnr_db < FLOOR_DB for item in found),
        "floor": FLOOR_DB,
    }


def _clean_cases(photos: list[Path], size: int) -> Iterator[Case]:
    for path in photos:
        clean = to_image(to_pixels(to_square(read_photo(path), size)))
        yield Case(path.stem, clean, clean)
