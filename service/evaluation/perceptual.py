"""MS-SSIM, and LPIPS, FID and KID where their networks are on disk; through torchmetrics.

Nothing is downloaded: what cannot be measured is named with what is missing.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

Image = NDArray[np.float32]

MIN_SIDE_MS_SSIM = 161  # five scales of an 11-pixel window
MAX_KID_SUBSET = 50
LPIPS, DISTANCES = "LPIPS", "FID and KID"
# What each needs: a package, and a file in torch.hub's folder of checkpoints.
NEEDS = {
    LPIPS: ("torchvision", "alexnet-owt-7be5be79.pth"),
    DISTANCES: ("torch_fidelity", "weights-inception-2015-12-05-6726825d.pth"),
}


def ms_ssim(image: Image, truth: Image) -> float | None:
    """Multi-scale structural similarity (Wang et al. 2003); None for a side below 161 px."""
    if min(image.shape[:2]) < MIN_SIDE_MS_SSIM:
        return None
    value = multiscale_structural_similarity_index_measure(
        _tensor([image]), _tensor([truth]), data_range=1.0
    )
    return float(value)


def missing(metric: str) -> str | None:
    """Why a metric of NEEDS cannot be measured here; None if it can."""
    package, file = NEEDS[metric]
    if importlib.util.find_spec(package) is None:
        return f"{metric} not measured: install the extra `perceptual` ({package} is missing)"
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.is_file():
        return f"{metric} not measured: put {file} into {path.parent}"
    return None


def reasons() -> list[str]:
    """One line for each metric that is not measured."""
    return [reason for metric in NEEDS if (reason := missing(metric))]


def perceptual(outputs: Sequence[Image], truths: Sequence[Image]) -> dict[str, float]:
    """Mean LPIPS (AlexNet), FID and KID x 1000 of outputs against truths, those that can be."""
    measured = {}
    if missing(LPIPS) is None:
        distance = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
        pairs = zip(outputs, truths, strict=True)
        values = [float(distance(_tensor([a]), _tensor([b]))) for a, b in pairs]
        measured["lpips"] = float(np.mean(values))
    if missing(DISTANCES) is None and len(outputs) > 1:
        fid = FrechetInceptionDistance(normalize=True)
        kid = KernelInceptionDistance(subset_size=min(MAX_KID_SUBSET, len(outputs)), normalize=True)
        for metric in (fid, kid):
            for real, images in ((True, truths), (False, outputs)):
                for image in images:
                    metric.update(_tensor([image]), real=real)
        measured |= {"fid": float(fid.compute()), "kid": 1000 * float(kid.compute()[0])}
    return measured


def _tensor(images: Sequence[Image]) -> Tensor:
    """(B, 3, H, W)"""
    stack = torch.from_numpy(np.ascontiguousarray(np.stack(images)))
    return stack.permute(0, 3, 1, 2)
