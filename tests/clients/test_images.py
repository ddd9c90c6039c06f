"""Rendered text and the user's pictures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loadproof_clients.payloads.images import from_folder, rendered


def test_rendered_pictures_are_different_and_the_same_for_a_seed() -> None:
    first, again, other = (rendered(8, 48, 192, 3, seed) for seed in (1, 1, 2))
    assert all(picture.shape == (48, 192, 3) and picture.dtype == np.uint8 for picture in first)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({picture.tobytes() for picture in first + other}) == 16


def test_a_picture_does_not_depend_on_how_many_are_made() -> None:
    assert np.array_equal(rendered(1, 48, 192, 3, 1)[0], rendered(5, 48, 192, 3, 1)[0])


@pytest.mark.parametrize(("height", "width"), [(48, 192), (480, 480), (224, 224)])
def test_pictures_look_like_print_much_paper_and_some_ink_that_stands_out(height: int, width: int) -> None:
    for picture in rendered(8, height, width, 1, 1):
        grey = picture.astype(float)
        ink = abs(grey - np.median(grey)) > 60
        assert 0.01 < ink.mean() < 0.35


@pytest.mark.parametrize("size", [(1, 1), (8, 300), (300, 8)])
def test_odd_sizes_are_rendered_too(size: tuple[int, int]) -> None:
    assert rendered(1, *size, 3, 1)[0].shape == (*size, 3)


def test_a_folder_s_pictures_come_in_order_of_their_names_resized(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name, colour in {"2.png": (255, 0, 0), "1.bmp": (0, 255, 0), "b/0.png": (0, 0, 255)}.items():
        Image.new("RGB", (20, 10), colour).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    found = from_folder(tmp_path, 10, 4, 6, 3)
    assert [picture.shape for picture in found] == [(4, 6, 3)] * 3
    assert [tuple(picture[0, 0].tolist()) for picture in found] == [(0, 255, 0), (255, 0, 0), (0, 0, 255)]
    assert len(from_folder(tmp_path, 2, 4, 6, 3)) == 2


def test_one_channel_is_grey(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 255, 255, 255)).save(tmp_path / "a.png")
    (found,) = from_folder(tmp_path, 1, 2, 2, 1)
    assert found.tolist() == [[[255], [255]], [[255], [255]]]


def test_a_photograph_taken_sideways_is_turned_upright(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20), (255, 255, 255))
    picture.paste((0, 0, 0), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise: the left half comes to the top
    picture.save(tmp_path / "a.png", exif=exif)
    (found,) = from_folder(tmp_path, 1, 40, 20, 1)
    assert found[2].max() == 0
    assert found[-3].min() == 255


def test_folders_without_pictures_and_broken_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no pictures"):
        from_folder(tmp_path, 1, 4, 4, 3)
    with pytest.raises(ValueError, match="is not a folder"):
        from_folder(tmp_path / "none", 1, 4, 4, 3)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    with pytest.raises(ValueError, match=r"broken\.png cannot be decoded"):
        from_folder(tmp_path, 1, 4, 4, 3)


def test_a_pipe_in_the_folder_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png cannot be decoded \(it is no regular file\)"):
        from_folder(tmp_path, 1, 4, 4, 3)
