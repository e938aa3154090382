"""The contact sheet: for every task rows of input, output, best baseline and truth, with PSNR."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

Pixels = NDArray[np.uint8]

TITLE_PX, CAPTION_PX, GAP_PX = 30, 20, 6
MAX_TILE_PX = 256
BACKGROUND, INK = (250, 250, 248), (25, 25, 25)


@dataclass(frozen=True)
class Tile:
    """One picture and the line under it."""

    pixels: Pixels
    caption: str


@dataclass(frozen=True)
class Section:
    """A titled block of photos; every photo is a row of tiles."""

    title: str
    photos: Sequence[Sequence[Tile]]


def caption(label: str, psnr_db: float | None = None) -> str:
    """A tile's caption, e.g. "output 24.1 dB"."""
    if psnr_db is None:
        return label
    return f"{label}  {'identical' if math.isinf(psnr_db) else f'{psnr_db:.1f} dB'}"


def draw_sheet(sections: Sequence[Section], path: Path, photos_per_row: int = 2) -> None:
    """Write the sections below each other as one picture, in the format of its name."""
    blocks = [draw_section(section, photos_per_row) for section in sections]
    width = max(block.width for block in blocks)
    sheet = Picture.new("RGB", (width, sum(block.height for block in blocks)), BACKGROUND)
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def draw_section(
    section: Section, photos_per_row: int = 2, max_tile_px: int = MAX_TILE_PX
) -> Picture.Image:
    """One section; tiles of another shape keep it."""
    num_tiles = max(len(tiles) for tiles in section.photos)
    fitted = [[_fit(tile, max_tile_px) for tile in tiles] for tiles in section.photos]
    width = max(picture.width for row in fitted for picture in row)
    height = max(picture.height for row in fitted for picture in row)
    rows = math.ceil(len(section.photos) / photos_per_row)
    photo_px = num_tiles * (width + GAP_PX) + 2 * GAP_PX
    row_px = height + CAPTION_PX + GAP_PX
    title_px = TITLE_PX if section.title else GAP_PX
    block = Picture.new("RGB", (photos_per_row * photo_px, title_px + rows * row_px), BACKGROUND)
    draw = ImageDraw.Draw(block)
    draw.text((2 * GAP_PX, 6), section.title, fill=INK, font=ImageFont.load_default(size=18))
    for index, tiles in enumerate(section.photos):
        left = (index % photos_per_row) * photo_px + GAP_PX
        top = title_px + (index // photos_per_row) * row_px
        for number, tile in enumerate(tiles):
            corner = (left + number * (width + GAP_PX), top)
            block.paste(fitted[index][number], corner)
            where = (corner[0] + 2, top + height + 1)
            draw.text(where, tile.caption, fill=INK, font=ImageFont.load_default(size=13))
    return block


def _fit(tile: Tile, side: int) -> Picture.Image:
    picture = Picture.fromarray(tile.pixels)
    shrink = min(1.0, side / max(picture.size))
    return picture.resize((round(picture.width * shrink), round(picture.height * shrink)))
