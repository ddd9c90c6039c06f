"""Pictures for models that look at pictures: rendered text, as a camera would see it, and the user's own files."""

from __future__ import annotations

import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps, UnidentifiedImageError

Picture = npt.NDArray[np.uint8]

_PRINTED: Final = """
account address amount annual approved archive balance Berlin bottle branch bridge budget camera capital carbon
carrier cashier catalogue central certificate charge chapter city clinic code coffee column company contract copper
country credit customer daily delivery department deposit discount district door dozen due editor electric engine
entrance estimate evening exit express factory fee final first flight floor forest fragile garden gate general glass
grand green guide harbour heavy hotel hour index industry inside invoice island item January journal July junction
kitchen laboratory late left letter licence light limited London machine market material measure meeting metal
midnight minute Monday morning museum network night north notice number office opening orange order original package
paper Paris parking part payment platform please police poste power price private product quality quantity quarter
queue railway receipt record reference refund region register repair report request reserved return river road room
route safety sample school second section serial service seven shipping signal silver single south special square
stadium standard station steel storage street student subtotal summer supply system table tariff tax telephone
terminal ticket timber tonight total tower town track transfer transport travel unit upper urgent value vehicle
version village visitor voltage warehouse water weekly weight welcome west window winter yellow zone
"""
# What Pillow's decoders raise for a broken file, beside the limits to what a file may unpack to.
_UNDECODABLE: Final = (
    *(OSError, UnidentifiedImageError, ValueError, SyntaxError, EOFError, LookupError, TypeError, struct.error),
    *(zlib.error, OverflowError, MemoryError, Image.DecompressionBombError, Warning),
)
WORDS: Final = tuple(_PRINTED.split())


def rendered(count: int, height: int, width: int, channels: int, seed: int) -> list[Picture]:
    """`count` pictures [height, width, channels] of printed words: one line where the picture is wide, else a page.

    They differ in words, size, ink, paper, light, a tilt of up to two degrees and noise; a quarter is upside down, as
    pages in a scanner are. Picture k depends on `seed` and k alone.
    """
    return [_render(height, width, channels, np.random.default_rng([seed, k])) for k in range(count)]


def from_folder(folder: Path, limit: int, height: int, width: int, channels: int) -> list[Picture]:
    """The first `limit` pictures below the folder, by name, resized to [height, width, channels].

    Raises ValueError for a folder without pictures and for a picture that cannot be decoded.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    pictures = [_load(path, height, width, channels) for path in islice(_picture_files(folder), limit)]
    if not pictures:
        raise ValueError(f"{folder} holds no pictures that Pillow can read (PNG, JPEG, WebP, ...)")
    return pictures


def _picture_files(folder: Path) -> Iterator[Path]:
    """By name, folder by folder, so that the start of a large data set does not cost a walk through all of it."""
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    for place, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(place, file) for file in sorted(files) if Path(file).suffix.lower() in suffixes)


def _load(path: Path, height: int, width: int, channels: int) -> Picture:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, a device never ends
            raise ValueError("it is no regular file")
        with warnings.catch_warnings(), Image.open(path) as opened:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            upright = ImageOps.exif_transpose(opened).convert(_mode(channels))
    except _UNDECODABLE as error:
        raise ValueError(f"{path} cannot be decoded ({error}): take it out of the folder") from None
    return _array(upright.resize((width, height), Image.Resampling.BILINEAR), channels)


def _render(height: int, width: int, channels: int, random: np.random.Generator) -> Picture:
    light_on_dark = random.random() < 0.2
    dark = random.integers(10, 70) + random.integers(-10, 50, 3)
    light = random.integers(200, 245) + random.integers(-15, 11, 3)
    paper, ink = (dark, light) if light_on_dark else (light, dark)
    canvas = Image.new("RGB", (width, height), tuple(int(v) for v in paper))
    mask = Image.new("L", (width, height), 0)
    _print_lines(ImageDraw.Draw(mask), height, width, random)
    tilt = float(random.uniform(-2, 2)) * min(1.0, 4 * height / width)
    mask = mask.rotate(tilt, Image.Resampling.BICUBIC)
    canvas.paste(tuple(int(v) for v in ink), (0, 0), mask)
    canvas = canvas.filter(ImageFilter.GaussianBlur(float(random.uniform(0, min(0.9, height / 80)))))
    if random.random() < 0.25:
        canvas = canvas.rotate(180)
    return _array(_lit(canvas, random).convert(_mode(channels)), channels)


def _print_lines(draw: ImageDraw.ImageDraw, height: int, width: int, random: np.random.Generator) -> None:
    """Words in white on the black mask: a line that fills a wide picture, or lines of two sizes down a page."""
    if width >= 2.5 * height:
        size = max(6.0, height * float(random.uniform(0.5, 0.72)))
        _print_line(draw, width * 0.04, height / 2, width * 0.92, size, random)
        return
    size = max(6.0, height * float(random.uniform(0.035, 0.06)))
    y, margin = height * float(random.uniform(0.05, 0.12)), width * 0.06
    while y + size < height * 0.96:
        line = size * float(random.choice([1, 1, 1, 1.6]))
        indent = margin * float(random.choice([1, 1, 1, 2]))
        if random.random() < 0.88:  # else a paragraph ends
            _print_line(draw, indent, y + line / 2, (width - 2 * indent) * float(random.uniform(0.5, 1)), line, random)
        y += line * float(random.uniform(1.35, 1.7))


def _print_line(
    draw: ImageDraw.ImageDraw, x: float, middle: float, width: float, size: float, random: np.random.Generator
) -> None:
    font = ImageFont.load_default(size)  # Pillow's own typeface: the same on every machine
    text = ""
    while True:
        longer = f"{text} {_word(random)}".strip()
        if draw.textlength(longer, font) > width:
            break
        text = longer
    # a picture too narrow for a word gets what of it fits
    draw.text((x, middle), text or longer, fill=255, font=font, anchor="lm")


def _word(random: np.random.Generator) -> str:
    kind = random.random()
    if kind < 0.12:
        return f"{random.integers(1, 10_000) / 100:.2f}"
    if kind < 0.2:
        return f"{chr(65 + int(random.integers(26)))}-{random.integers(100, 10_000)}"
    word = str(random.choice(WORDS))
    return word.upper() if kind < 0.3 else word.capitalize() if kind < 0.5 else word


def _lit(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """Light that falls off to one side, and the sensor's noise."""
    pixels = np.asarray(picture, np.float32)
    height, width, _ = pixels.shape
    angle, fall = random.uniform(0, 2 * np.pi), random.uniform(0, 0.25)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    light = 1 - fall * (0.5 + (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)))
    noise = random.normal(0, random.uniform(1, 6), (height, width, 1))
    return Image.fromarray(np.clip(pixels * light[..., None] + noise, 0, 255).astype(np.uint8))


def _mode(channels: int) -> str:
    return "L" if channels == 1 else "RGB"


def _array(picture: Image.Image, channels: int) -> Picture:
    pixels = np.asarray(picture, np.uint8)
    return pixels.reshape(*pixels.shape[:2], channels)
