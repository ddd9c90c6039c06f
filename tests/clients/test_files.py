"""Files of tensors: what is read is what was written, and what is no such file is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadproof_clients.tensors import files
from loadproof_clients.tensors.tensor import Tensor

ENTRIES = [
    [Tensor("x", "FP32", (1, 2), bytes(8)), Tensor("é", "BYTES", (2,), b"\1\0\0\0a\0\0\0\0")],
    [Tensor("scalar", "INT8", (), b"\7")],
    [Tensor("nothing", "FP32", (0, 4), b"")],
    [],
]


def test_files_give_back_what_was_written(tmp_path: Path) -> None:
    assert files.write(tmp_path / "file", ENTRIES) == len(ENTRIES)
    assert files.read(tmp_path / "file") == ENTRIES
    assert files.loads(b"") == []


def test_a_file_that_is_cut_off_anywhere_is_refused_or_has_fewer_entries(tmp_path: Path) -> None:
    files.write(tmp_path / "file", ENTRIES)
    whole = (tmp_path / "file").read_bytes()
    refused = 0
    for size in range(len(whole)):
        try:
            assert files.loads(whole[:size]) in [ENTRIES[:count] for count in range(len(ENTRIES))]
        except ValueError:
            refused += 1
    assert refused >= len(whole) - len(ENTRIES)


@pytest.mark.parametrize(
    "data", [b"\x05\xff\xff", b"\2\0\0\0{}x", b"\4\0\0\0null", b"\7\0\0\0[[1,2]]", b"<html></html>"]
)
def test_what_is_no_such_file_is_refused_by_its_name(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(data)
    with pytest.raises(ValueError, match=r"broken: not a whole file of tensors"):
        files.read(tmp_path / "broken")
