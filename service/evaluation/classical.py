"""What one can do for each task without learning: the baselines a plugin has to beat.

Every method maps a float32 image (H, W, 3), sRGB, in [0, 1] to another one and sees nothing else.
"""

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.restoration import richardson_lucy, wiener

from service.evaluation.metrics import LUMA, to_image, to_pixels

Image = NDArray[np.float32]
Plane = NDArray[np.float32]
Method = Callable[[Image], Image]


def median(image: Image, size: int) -> Image:
    return to_image(np.asarray(cv2.medianBlur(to_pixels(image), size), np.uint8))


def gaussian(image: Image, sigma: float) -> Image:
    return _float(cv2.GaussianBlur(image, (0, 0), sigma))


def bilateral(image: Image, sigma_colour: float = 0.15, sigma_space: float = 3.0) -> Image:
    return _float(cv2.bilateralFilter(image, 9, sigma_colour, sigma_space))


def opening(image: Image, width: int, height: int) -> Image:
    """Morphological opening: bright things thinner than the element vanish."""
    element = cv2.getStructuringElement(cv2.MORPH_RECT, (width, height))
    return _float(cv2.morphologyEx(image, cv2.MORPH_OPEN, element))


def non_local_means(image: Image, strength: float = 10.0) -> Image:
    pixels = to_pixels(image)
    cleaned = cv2.fastNlMeansDenoisingColored(pixels, None, strength, strength, 7, 15)
    return to_image(np.asarray(cleaned, np.uint8))


def clahe(image: Image, limit: float = 2.0) -> Image:
    """Contrast-limited adaptive histogram equalisation of the lightness."""
    lab = cv2.cvtColor(to_pixels(image), cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(limit, (8, 8)).apply(np.ascontiguousarray(lab[..., 0]))
    return to_image(np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), np.uint8))


def stretch_contrast(image: Image, per_channel: bool = True) -> Image:
    """Stretch the 1st to the 99th percentile over the whole range."""
    axes = (0, 1) if per_channel else None
    low = np.percentile(image, 1, axis=axes)
    high = np.percentile(image, 99, axis=axes)
    return _clip((image - low) / np.maximum(high - low, 1e-3))


def dark_channel_prior(image: Image, patch: int = 15, omega: float = 0.95) -> Image:
    """Haze removal by He et al. 2009, transmission refined by a guided filter (He et al. 2010)."""
    dark = _dark_channel(image, patch)
    brightest = np.argsort(dark, axis=None)[-max(1, dark.size // 1000) :]
    airlight = np.maximum(image.reshape(-1, 3)[brightest].mean(axis=0), 0.1)
    rough = 1.0 - omega * _dark_channel(_float(image / airlight), patch)
    transmission = guided_filter(_float(image @ LUMA), rough, radius=40, eps=1e-3)
    clear = (image - airlight) / np.clip(transmission, 0.1, 1.0)[..., None] + airlight
    return _clip(clear)


def guided_filter(guide: Plane, plane: Plane, radius: int, eps: float) -> Plane:
    """Smooth `plane` along the edges of `guide`, both (H, W) (He et al. 2010, algorithm 1)."""
    window = (2 * radius + 1, 2 * radius + 1)

    def mean(values: Plane) -> Plane:
        return _float(cv2.blur(values, window, borderType=cv2.BORDER_REFLECT_101))

    mean_guide, mean_plane = mean(guide), mean(plane)
    slope = (mean(guide * plane) - mean_guide * mean_plane) / (
        mean(guide * guide) - mean_guide**2 + eps
    )
    offset = mean_plane - slope * mean_guide
    return _float(mean(_float(slope)) * guide + mean(_float(offset)))


def gamma_to_mean(image: Image, mean: float = 0.45) -> Image:
    """The one gamma that brings the mean lightness to `mean`, found by bisection."""
    low, high = 0.1, 4.0
    for _ in range(20):
        gamma = (low + high) / 2
        low, high = (gamma, high) if np.mean(image**gamma @ LUMA) > mean else (low, gamma)
    return _clip(np.power(image, np.float32((low + high) / 2)))


def gamma_and_denoise(image: Image) -> Image:
    return non_local_means(gamma_to_mean(image), 12.0)


def gain_to_grey_world(image: Image, mean: float = 0.45) -> Image:
    """Scale the channels in linear light so that each has the mean of a grey world."""
    linear = image**2.2
    return _clip((linear * (mean**2.2 / np.maximum(linear.mean(axis=(0, 1)), 1e-4))) ** (1 / 2.2))


def retinex(image: Image, sigmas: tuple[float, ...]) -> Image:
    """Single- or multi-scale retinex (Jobson et al. 1997) of the brightest channel, colour kept."""
    light = image.max(axis=2) + np.float32(4 / 255)
    logs = [np.log(light) - np.log(cv2.GaussianBlur(light, (0, 0), s)) for s in sigmas]
    reflectance = np.mean(logs, axis=0)
    spread = max(float(reflectance.std()), 1e-3)
    value = np.clip(0.5 + 0.2 * (reflectance - reflectance.mean()) / spread, 0.0, 1.0)
    return _clip(image * (value / light)[..., None])


def lime(image: Image, gamma: float = 0.8) -> Image:
    """Illumination map of Guo et al. 2017 (the brightest channel), smoothed by a guided filter."""
    brightest = image.max(axis=2)
    illumination = guided_filter(brightest, brightest, radius=15, eps=1e-3)
    return _clip(image / np.clip(illumination, 0.03, 1.0)[..., None] ** gamma)


def unsharp(image: Image, sigma: float, amount: float) -> Image:
    return _clip(image + amount * (image - cv2.GaussianBlur(image, (0, 0), sigma)))


def wiener_deconvolution(image: Image, sigma: float, balance: float) -> Image:
    """Wiener filter with a guessed Gaussian kernel."""
    kernel = _gaussian_kernel(sigma)
    planes = [wiener(image[..., c].astype(np.float64), kernel, balance) for c in range(3)]
    return _clip(np.stack(planes, axis=2))


def richardson_lucy_deconvolution(image: Image, sigma: float, num_iter: int) -> Image:
    """Richardson-Lucy iterations with a guessed Gaussian kernel, on mirrored borders."""
    kernel, pad = _gaussian_kernel(sigma), 16
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    planes = [
        richardson_lucy(padded[..., c].astype(np.float64), kernel, num_iter=num_iter)
        for c in range(3)
    ]
    return _clip(np.stack(planes, axis=2)[pad:-pad, pad:-pad])


def inpaint_highlights(image: Image, threshold: float = 0.92) -> Image:
    """Fill what is nearly clipped from its surroundings (Telea 2004)."""
    return _inpaint(image, image.min(axis=2) > threshold)


def lower_highlights(image: Image, size: int = 61) -> Image:
    """Take half of the colourless bright excess over a wide opening away."""
    floor = image.min(axis=2)
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    excess = floor - cv2.morphologyEx(floor, cv2.MORPH_OPEN, element)
    return _clip(image - 0.5 * excess[..., None])


def inpaint_scratches(image: Image) -> Image:
    """Fill thin structures that a top-hat or a black-hat picks out (Telea 2004)."""
    grey = _float(image @ LUMA)
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    hats = np.maximum(
        cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, element),
        cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, element),
    )
    return _inpaint(image, hats > 0.2)


def inpaint_and_stretch(image: Image) -> Image:
    return stretch_contrast(inpaint_scratches(image))


def denoise_and_stretch(image: Image) -> Image:
    return stretch_contrast(non_local_means(image, 6.0))


def grey_world_and_denoise(image: Image) -> Image:
    return non_local_means(gain_to_grey_world(image), 8.0)


def sky_and_earth(image: Image) -> Image:
    """Bluish where it is bright and high in the frame, brownish below: what most photos share."""
    light = image @ LUMA
    height = np.linspace(1.0, 0.0, image.shape[0], dtype=np.float32)[:, None]
    sky = np.clip(2.0 * light * height - 0.4, 0.0, 1.0)[..., None]
    blue = np.array([0.92, 1.0, 1.1], np.float32)
    brown = np.array([1.07, 1.0, 0.86], np.float32)
    return _clip(light[..., None] * (sky * blue + (1 - sky) * brown))


def sepia(image: Image) -> Image:
    """Lightness kept, one brown hue over all."""
    return _clip((image @ LUMA)[..., None] * np.array([1.12, 0.99, 0.83], np.float32))


def keep(image: Image) -> Image:
    """The photo as it is: for tasks that no filter can do."""
    return image


_MEDIANS: dict[str, Method] = {
    "median3": partial(median, size=3),
    "median5": partial(median, size=5),
}
_FALLING: dict[str, Method] = {
    **_MEDIANS,
    "bilateral": bilateral,
    "opening3": partial(opening, width=3, height=3),
    "opening5": partial(opening, width=5, height=1),
    "non_local_means": non_local_means,
}

METHODS: dict[str, dict[str, Method]] = {
    "derain": _FALLING,
    "desnow": {**_FALLING, "opening7": partial(opening, width=7, height=7)},
    "dehaze": {
        "dark_channel_prior": dark_channel_prior,
        "clahe": clahe,
        "stretch": stretch_contrast,
    },
    "lowlight": {
        "gamma": gamma_to_mean,
        "gamma_denoise": gamma_and_denoise,
        "grey_world": gain_to_grey_world,
        "grey_world_denoise": grey_world_and_denoise,
        "clahe": partial(clahe, limit=8.0),
        "retinex": partial(retinex, sigmas=(40.0,)),
        "multiscale_retinex": partial(retinex, sigmas=(8.0, 40.0, 120.0)),
        "lime": lime,
    },
    "demoire": {
        **_MEDIANS,
        "gaussian": partial(gaussian, sigma=1.0),
        "bilateral": bilateral,
        "non_local_means": non_local_means,
    },
    "dejpeg": {
        "gaussian": partial(gaussian, sigma=0.7),
        "bilateral": partial(bilateral, sigma_colour=0.05),
        "non_local_means": partial(non_local_means, strength=4.0),
    },
    "highlight": {"inpaint": inpaint_highlights, "lower": lower_highlights, "clahe": clahe},
    "deblur": {
        "unsharp": partial(unsharp, sigma=2.0, amount=1.0),
        "unsharp_soft": partial(unsharp, sigma=1.5, amount=0.5),
        "wiener": partial(wiener_deconvolution, sigma=1.5, balance=0.05),
        "richardson_lucy": partial(richardson_lucy_deconvolution, sigma=1.5, num_iter=8),
    },
    "face": {
        "unsharp": partial(unsharp, sigma=2.0, amount=0.7),
        "bilateral": partial(bilateral, sigma_colour=0.08),
        "non_local_means": partial(non_local_means, strength=5.0),
    },
    "restore": {
        "inpaint": inpaint_scratches,
        "inpaint_stretch": inpaint_and_stretch,
        "denoise_stretch": denoise_and_stretch,
        "clahe": clahe,
        "median3": partial(median, size=3),
        "stretch": stretch_contrast,
    },
    "colorize": {"sepia": sepia, "sky_and_earth": sky_and_earth, "none": keep},
}


def classical_methods(task: str) -> dict[str, Method]:
    """The methods for `task` by name; tasks that add an effect have none but the photo as it is."""
    return METHODS.get(task, {"none": keep})


def _dark_channel(image: Image, patch: int) -> Plane:
    element = cv2.getStructuringElement(cv2.MORPH_RECT, (patch, patch))
    return _float(cv2.erode(image.min(axis=2), element))


def _inpaint(image: Image, holes: NDArray[np.bool_]) -> Image:
    mask = cv2.dilate(holes.astype(np.uint8), np.ones((3, 3), np.uint8))
    filled = cv2.inpaint(to_pixels(image), mask, 3, cv2.INPAINT_TELEA)
    return to_image(np.asarray(filled, np.uint8))


def _gaussian_kernel(sigma: float) -> NDArray[np.float64]:
    line = cv2.getGaussianKernel(2 * round(3 * sigma) + 1, sigma)
    return np.asarray(line @ line.T, np.float64)


def _float(image: object) -> NDArray[np.float32]:
    return np.asarray(image, np.float32)


def _clip(image: object) -> Image:
    return np.clip(_float(image), 0.0, 1.0)
