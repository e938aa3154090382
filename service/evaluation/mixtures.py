"""Two damages at once: two plugins in sequence against each of them alone."""

from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np

from service.evaluation.cases import Case, synthetic_cases
from service.evaluation.engine_restore import Restore
from service.evaluation.measured import restored
from service.evaluation.metrics import mean_psnr, psnr, ssim
from service.training.degradations import Image

# The two tasks that undo each mixture; `restore` knows the noise of prints and sensors.
MIXTURES = {
    "derain+dehaze": ("derain", "dehaze"),
    "desnow+dehaze": ("desnow", "dehaze"),
    "lowlight+noise": ("restore", "lowlight"),
}


@dataclass(frozen=True)
class Sequenced:
    """One mixture: cases, and for every plan its outputs in the order of the cases."""

    cases: list[Case]
    outputs: dict[tuple[str, ...], list[Image]]

    def psnr_db(self, plan: tuple[str, ...]) -> float:
        pairs = zip(self.outputs[plan], self.cases, strict=True)
        return mean_psnr(psnr(output, case.target) for output, case in pairs)


def run_mixture(name: str, photos: list[Path], size: int, seed: int, restore: Restore) -> Sequenced:
    """Run each task alone and both in either order over photos with that mixture."""
    tasks = MIXTURES[name]
    cases = list(synthetic_cases(photos, name, size, seed))
    outputs = {
        plan: [output for _, output in restored(cases, plan, restore)]
        for plan in (*((task,) for task in tasks), *permutations(tasks))
    }
    return Sequenced(cases, outputs)


def summarise_mixture(found: Sequenced) -> dict[str, object]:
    """PSNR and SSIM of every plan, and what the better order gains over the better single task."""
    values = {plan: found.psnr_db(plan) for plan in found.outputs}
    best = {
        length: max((plan for plan in values if len(plan) == length), key=lambda p: values[p])
        for length in (1, 2)
    }
    return {
        "num_photos": len(found.cases),
        "psnr_in": round(mean_psnr(psnr(c.input, c.target) for c in found.cases), 4),
        "psnr": {" > ".join(plan): round(value, 4) for plan, value in values.items()},
        "ssim": {
            " > ".join(plan): round(_mean_ssim(outputs, found.cases), 4)
            for plan, outputs in found.outputs.items()
        },
        "best_sequence": " > ".join(best[2]),
        "best_single": " > ".join(best[1]),
        "over_single": round(values[best[2]] - values[best[1]], 4),
    }


def _mean_ssim(outputs: list[Image], cases: list[Case]) -> float:
    values = [ssim(output, case.target) for output, case in zip(outputs, cases, strict=True)]
    return float(np.mean(values))
