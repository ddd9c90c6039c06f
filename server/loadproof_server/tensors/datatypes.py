"""KServe v2's datatypes, one row each: what it is in numpy, OpenVINO, gRPC's typed contents, JSON and Triton.

FP16 and BF16 travel only raw (KServe v2, "Tensor Data"). numpy does not know BF16: its array holds the 16 bits as
uint16. OpenVINO is not imported here; its types are given by their names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
BYTES: Final = "BYTES"


@dataclass(frozen=True, slots=True)
class Datatype:
    """One KServe datatype; the size of an element in bytes is `dtype.itemsize`, except for BYTES."""

    name: str
    dtype: np.dtype[Any]
    openvino: str  # the name of OpenVINO's element type
    contents: str = ""  # the field of gRPC's InferTensorContents; empty: raw only
    json_types: frozenset[type] = frozenset()  # of the JSON values that it takes
    is_float: bool = False

    @property
    def triton(self) -> str:
        """The name in Triton's model configuration."""
        return "TYPE_STRING" if self.name == BYTES else f"TYPE_{self.name}"


_BOOLEAN: Final = frozenset({bool})
_INTEGER: Final = frozenset({int})
_NUMBER: Final = frozenset({int, float})
_STRING: Final = frozenset({str})
DATATYPES: Final = {
    datatype.name: datatype
    for datatype in (
        Datatype("BOOL", np.dtype("?"), "boolean", "bool_contents", _BOOLEAN),
        Datatype("UINT8", np.dtype("u1"), "u8", "uint_contents", _INTEGER),
        Datatype("UINT16", np.dtype("<u2"), "u16", "uint_contents", _INTEGER),
        Datatype("UINT32", np.dtype("<u4"), "u32", "uint_contents", _INTEGER),
        Datatype("UINT64", np.dtype("<u8"), "u64", "uint64_contents", _INTEGER),
        Datatype("INT8", np.dtype("i1"), "i8", "int_contents", _INTEGER),
        Datatype("INT16", np.dtype("<i2"), "i16", "int_contents", _INTEGER),
        Datatype("INT32", np.dtype("<i4"), "i32", "int_contents", _INTEGER),
        Datatype("INT64", np.dtype("<i8"), "i64", "int64_contents", _INTEGER),
        Datatype("FP16", np.dtype("<f2"), "f16", is_float=True),
        Datatype("BF16", np.dtype("<u2"), "bf16", is_float=True),
        Datatype("FP32", np.dtype("<f4"), "f32", "fp32_contents", _NUMBER, is_float=True),
        Datatype("FP64", np.dtype("<f8"), "f64", "fp64_contents", _NUMBER, is_float=True),
        Datatype(BYTES, np.dtype("O"), "string", "bytes_contents", _STRING),
    )
}
BY_OPENVINO: Final = {datatype.openvino: datatype for datatype in DATATYPES.values()}


def raw_only(datatype: str) -> bool:
    """Whether the datatype has neither a typed field nor a JSON form."""
    return not DATATYPES[datatype].contents
