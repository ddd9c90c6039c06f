"""The user's .npy and .npz files."""

from __future__ import annotations

import os
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadproof_clients.payloads import arrays
from loadproof_clients.payloads.shapes import Input, PayloadError

X = Input("x", "FP32", (-1, 2))
IDS = Input("ids", "INT32", (-1,))


def saved(tmp_path: Path, array: Any, **named: Any) -> Path:
    path = tmp_path / ("a.npz" if named else "a.npy")
    if named:
        np.savez(path, **named)
    else:
        np.save(path, array)
    return path


def test_a_npy_file_is_read_in_the_input_s_datatype(tmp_path: Path) -> None:
    (found,) = arrays.load(saved(tmp_path, np.array([[0.5, 2]])), [X]).values()
    assert found.dtype == np.float32
    assert found.tolist() == [[0.5, 2]]
    assert arrays.load(saved(tmp_path, np.array([7], np.int64)), [IDS])["ids"].dtype == np.int32


def test_a_npz_file_has_an_array_for_each_input(tmp_path: Path) -> None:
    found = arrays.load(saved(tmp_path, None, x=np.ones((1, 2)), ids=np.array([3])), [X, IDS])
    assert {name: array.tolist() for name, array in found.items()} == {"x": [[1, 1]], "ids": [3]}


def test_strings_and_booleans_are_read(tmp_path: Path) -> None:
    texts = arrays.load(saved(tmp_path, np.array(["aé", "b"])), [Input("t", "BYTES", (-1,))])["t"]
    assert texts.tolist() == ["aé".encode(), b"b"]
    assert arrays.load(saved(tmp_path, np.array([True])), [Input("m", "BOOL", (-1,))])["m"].tolist() == [True]


@pytest.mark.parametrize(
    ("array", "described", "message"),
    [
        (np.array([2**40]), IDS, "cannot hold"),
        (np.array([1.5]), IDS, "has float64 for ids INT32"),
        (np.array([1e30]), Input("h", "FP16", (-1,)), "cannot hold"),
        (np.array([1]), Input("m", "BOOL", (-1,)), "has int64 for m BOOL"),
        (np.array(["1"]), X, "for x FP32"),
        (np.array([-1]), Input("u", "UINT8", (-1,)), "cannot hold"),
    ],
)
def test_values_that_the_input_cannot_hold_are_a_mistake(
    tmp_path: Path, array: Any, described: Input, message: str
) -> None:
    with pytest.raises(PayloadError, match=message):
        arrays.load(saved(tmp_path, array), [described])


def test_infinities_that_are_in_the_file_are_the_user_s_wish(tmp_path: Path) -> None:
    found = arrays.load(saved(tmp_path, np.array([[np.inf, np.nan]])), [X])["x"]
    assert np.isposinf(found[0, 0])
    assert np.isnan(found[0, 1])


def test_files_that_do_not_fit_the_model_s_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(PayloadError, match="is one array, but the model has x FP32"):
        arrays.load(saved(tmp_path, np.ones(2)), [X, IDS])
    with pytest.raises(PayloadError, match=r"has y; the model's inputs are x FP32 \[-1, 2\]"):
        arrays.load(saved(tmp_path, None, y=np.ones(2)), [X])


def test_unreadable_files_are_one_clear_line_and_nothing_is_unpickled(tmp_path: Path) -> None:
    text = tmp_path / "text.npy"
    text.write_text("hello")
    pickled = tmp_path / "pickled.npy"
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    for path in (text, pickled):
        with pytest.raises(PayloadError, match=r"is not a \.npy or \.npz file of numbers or strings"):
            arrays.load(path, [X])
    with pytest.raises(PayloadError, match="cannot be read: No such file"):
        arrays.load(tmp_path / "none.npy", [X])


def header(shape: str) -> bytes:
    """A .npy file's, as anybody can write it."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ("(27584547717644288,)", "declares 105,226,698,752 MiB"),
        ("(1000, 2)", "is cut short"),
        ("(-1, 2)", "is not a .npy"),
    ],
)
def test_a_header_is_believed_as_far_as_the_file_goes(tmp_path: Path, shape: str, said: str) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(header(shape) + bytes(16))
    with pytest.raises(PayloadError, match=said):
        arrays.load(path, [X])


def test_a_zip_file_is_not_unpacked_beyond_the_limit(tmp_path: Path) -> None:
    """4 GB of zeros are 4 MB of file; what its directory says is enough to refuse it."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header("(500000000, 2)"))
        archive.filelist[0].file_size = 4_000_000_128
    began_s = time.monotonic()
    with pytest.raises(PayloadError, match="allowed: 1,024"):
        arrays.load(path, [X])
    assert time.monotonic() - began_s < 1
    path.write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(PayloadError, match="is not a"):
        arrays.load(path, [X])


def test_a_member_s_header_is_believed_as_far_as_the_member_goes(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header("(1000, 2)") + bytes(16))
    with pytest.raises(PayloadError, match="is cut short"):
        arrays.load(path, [X])


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(PayloadError, match="is no regular file"):
        arrays.load(tmp_path / "a.npy", [X])
