"""Bytes <-> checked pixels, and everything around the pixels that must come back with them.

A Photo is an image file taken apart: the pixels that the models see (8 bits, sRGB, upright), and
the file's own samples, alpha, colour profile and metadata, to which the models' change is added in
float. So depth, colours outside of sRGB and unmasked samples survive. It knows no models, no HTTP.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from service.errors import InvalidImage
from service.image_16_bits import write_png_16, write_tiff_16
from service.image_colour import ColourSpace, parse_profile, to_srgb_by_lcms
from service.image_exif import orientation_of
from service.image_files import (
    DAMAGE,
    DEFAULT_QUALITY,
    LOSSY,
    MEDIA_TYPES,
    ImageLimits,
    OutputFormat,
    check_output,
    media_type,
    open_checked,
    open_file,
    save,
)
from service.image_mask import Weights, mask_at_size, read_mask
from service.image_metadata import Metadata, read_metadata, save_options, tiff_tags
from service.image_samples import Samples, max_of, read_samples, resized, to_8_bits, to_depth
from service.jobs import EditRequest

__all__ = [
    "LOSSY", "MEDIA_TYPES", "ImageLimits", "Output", "OutputFormat", "Photo", "Pixels",
    "UnitPixels", "Weights", "check_files", "decode", "encode", "media_type", "read_mask",
    "read_photo", "write_photo",
]  # fmt: skip

Pixels = NDArray[np.uint8]  # (H, W, 3), sRGB
UnitPixels = NDArray[np.float32]  # (H, W, 3), sRGB in [0, 1]

COLOURING = ("colorize",)  # plugins whose result has colours where its input has none
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601, as Pillow's own conversion to grey


@dataclass(frozen=True)
class Output:
    """How a result is written; the fields of EditRequest."""

    format: OutputFormat = "png"
    quality: int | None = None  # of jpeg, webp and avif
    metadata: Literal["keep", "strip"] = "keep"
    strength: float = 1.0  # how much of the models' change is kept, 0 to 1

    @classmethod
    def of(cls, request: EditRequest) -> Self:
        return cls(
            request.output_format, request.output_quality, request.metadata, request.strength
        )


@dataclass(frozen=True)
class Photo:
    """`samples` are upright, in the file's own depth and colour space."""

    samples: Samples  # (H, W, C), C 1 or 3
    alpha: Samples | None = None  # (H, W, 1), not premultiplied
    colour: ColourSpace | None = None  # None: sRGB, or as good as
    icc_profile: bytes = b""
    metadata: Metadata = Metadata()

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.samples.shape[0], self.samples.shape[1]

    @cached_property
    def pixels(self) -> Pixels:
        """What the models see."""
        seen = self.samples
        if self.colour is not None:
            seen = to_depth(self.colour.to_srgb(_unit(seen)), 255)
        return np.ascontiguousarray(np.broadcast_to(to_8_bits(seen), (*seen.shape[:2], 3)))

    @property
    def unchanged(self) -> UnitPixels:
        """What models answer that change nothing."""
        return _unit(self.pixels)

    @property
    def in_srgb(self) -> "Photo":
        """The same picture without a profile."""
        if self.colour is None:
            return replace(self, icc_profile=b"")
        samples = to_depth(self.colour.to_srgb(_unit(self.samples)), max_of(self.samples))
        return replace(self, samples=samples, colour=None, icc_profile=b"")

    def at_size(self, shape: tuple[int, int]) -> "Photo":
        """The same picture with another height and width."""
        alpha = None if self.alpha is None else resized(self.alpha, shape)
        return replace(self, samples=resized(self.samples, shape), alpha=alpha)

    @property
    def in_colour(self) -> "Photo":
        """The same picture with three channels."""
        if self.samples.shape[-1] == 3:
            return self
        return replace(self.in_srgb, samples=np.repeat(self.in_srgb.samples, 3, axis=-1))


def read_photo(data: bytes, limits: ImageLimits) -> Photo:
    """An image file taken apart; InvalidImage, UnsupportedImageType or ImageTooLarge."""
    image = open_checked(data, limits)
    try:
        return _take_apart(data, image)
    except DAMAGE as error:
        raise InvalidImage(f"the {image.format} image is damaged or truncated: {error}") from error


def check_files(
    image: bytes, mask: bytes, output_format: OutputFormat, limits: ImageLimits
) -> tuple[int, int]:
    """Width and height, held upright, from the header; any of ClientError that can be told early.

    No pixel is decoded, unless there is a mask: damage inside is found by whoever decodes.
    """
    opened = open_checked(image, limits)
    width, height = _upright(opened)
    check_output(width, height, output_format)
    if mask:
        read_mask(mask, limits, read_photo(image, limits).shape)
    return width, height


def write_photo(
    photo: Photo,
    restored: UnitPixels,
    output: Output = Output(),
    plugins: tuple[str, ...] = (),
    mask: Weights | None = None,
) -> bytes:
    """File of `photo` with the change from photo.pixels to `restored`, where the mask allows it.

    Grey stays grey unless one of the `plugins` that ran gives it colour.
    """
    if restored.shape[:2] != photo.shape:  # a preset that answers in the network's size
        shape = restored.shape[0], restored.shape[1]
        photo = photo.at_size(shape)
        mask = None if mask is None else mask_at_size(mask, shape)
    if set(plugins) & set(COLOURING):
        photo = photo.in_colour
    if photo.samples.shape[-1] == 1 and output.format in ("webp", "avif"):
        photo = photo.in_srgb  # they hold no grey, so a grey profile would not fit
    result = replace(photo, samples=_changed(photo, restored, mask, output.strength))
    return _write(result, output)


def decode(data: bytes, limits: ImageLimits) -> Pixels:
    """What the models see of an image file."""
    return read_photo(data, limits).pixels


def upright_size(data: bytes) -> tuple[int, int]:
    """Width and height of a readable image file, turned as its EXIF orientation says."""
    return _upright(open_file(data))


def _upright(image: Image.Image) -> tuple[int, int]:
    """Width and height. TIFF has its orientation among its tags, the others in EXIF."""
    exif = image.info.get("exif")
    if image.format == "TIFF":
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    else:
        orientation = orientation_of(exif) if isinstance(exif, bytes) else 1
    return (image.height, image.width) if orientation in (5, 6, 7, 8) else image.size


def encode(pixels: Pixels, output_format: OutputFormat, quality: int = DEFAULT_QUALITY) -> bytes:
    """Image file of sRGB `pixels` that come from no other file."""
    return _write(Photo(pixels), Output(output_format, quality))


def _take_apart(data: bytes, image: Image.Image) -> Photo:
    opened, profile = image, image.info.get("icc_profile") or b""
    if image.mode == "CMYK":
        # Printing inks are answered as sRGB: no output format but JPEG and TIFF could hold them.
        opened = (profile and to_srgb_by_lcms(image, profile)) or image.convert("RGB")
        opened.info, profile = image.info, b""
    samples = read_samples(data, opened)
    num_colours = 3 if samples.shape[-1] > 2 else 1
    alpha = samples[..., num_colours:] if samples.shape[-1] > num_colours else None
    photo = Photo(samples[..., :num_colours], alpha, metadata=read_metadata(image))
    return _with_profile(photo, profile) if profile else photo


def _with_profile(photo: Photo, profile: bytes) -> Photo:
    """The photo as its profile means it; a profile that does not fit the pixels is left out."""
    colour = parse_profile(profile)
    if colour is not None and len(colour.curves) == photo.samples.shape[-1]:
        return replace(photo, colour=None if colour.is_srgb else colour, icc_profile=profile)
    if colour is not None or photo.samples.shape[-1] == 1:
        return photo
    image = to_srgb_by_lcms(Image.fromarray(to_8_bits(photo.samples)), profile)
    return photo if image is None else replace(photo, samples=np.asarray(image))


def _changed(photo: Photo, restored: UnitPixels, mask: Weights | None, strength: float) -> Samples:
    """The samples plus the change that the models made, in the photo's own colour space."""
    is_what_was_seen = photo.colour is None and photo.samples.shape[-1] == 3
    is_kept_whole = mask is None and strength == 1
    if is_what_was_seen and photo.samples.dtype == np.uint8 and is_kept_whole:
        return to_depth(restored, 255)  # the same as below, in a third of the time
    after, before = restored, _unit(photo.pixels)
    if photo.samples.shape[-1] == 1:
        after, before = (after @ LUMA)[..., None], before[..., :1]
    if photo.colour is not None:
        after, before = photo.colour.from_srgb(after), photo.colour.from_srgb(before)
    change = (after - before) * np.float32(strength)
    if mask is not None:
        change *= mask[..., None]
    return to_depth(_unit(photo.samples) + change, max_of(photo.samples))


def _write(photo: Photo, output: Output) -> bytes:
    check_output(photo.shape[1], photo.shape[0], output.format)
    metadata = photo.metadata if output.metadata == "keep" else Metadata()
    if photo.samples.dtype == np.uint16 and output.format in ("png", "tiff"):
        return _write_16(photo, metadata, output.format)
    channels = to_8_bits(_joined(photo))
    image = Image.fromarray(channels[..., 0] if channels.shape[-1] == 1 else channels)
    if output.format == "jpeg" and photo.alpha is not None:
        image = _on_white(image)
    options: dict[str, Any] = save_options(metadata, output.format)
    if photo.icc_profile:
        options["icc_profile"] = photo.icc_profile
    return save(image, output.format, output.quality or DEFAULT_QUALITY, **options)


def _write_16(photo: Photo, metadata: Metadata, output_format: Literal["png", "tiff"]) -> bytes:
    if output_format == "png":
        return write_png_16(_joined(photo), photo.icc_profile, metadata.exif, metadata.xmp)
    if photo.alpha is not None:
        photo = photo.in_colour  # hardly anybody reads grey with alpha from a TIFF
    return write_tiff_16(_joined(photo), tiff_tags(metadata), photo.icc_profile)


def _joined(photo: Photo) -> Samples:
    """Colours and alpha, (H, W, 1 to 4)."""
    return photo.samples if photo.alpha is None else np.dstack([photo.samples, photo.alpha])


def _on_white(image: Image.Image) -> Image.Image:
    """JPEG has no alpha: the picture as a white page shows it."""
    colours, alpha = image.convert(image.mode.removesuffix("A")), image.getchannel("A")
    page = Image.new(colours.mode, colours.size, "white")
    page.paste(colours, mask=alpha)
    return page


def _unit(samples: Samples) -> NDArray[np.float32]:
    return samples.astype(np.float32) / np.float32(max_of(samples))
