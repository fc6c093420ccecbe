"""
NumPy's arrays as bytes: carried where NumPy is installed.

Only what has a fixed size and no pointers is carried, so no bytes make NumPy do anything but hold
numbers. NumPy is imported when an array arrives, and not before.
"""

from __future__ import annotations

import math
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta
from msgspec.msgpack import Decoder
from ormsgpack import Ext, packb

from headgate.errors import PayloadError
from headgate.scalars import NO_STEP
from headgate.wire.extensions import ARRAY

if TYPE_CHECKING:
    import numpy

__all__ = ["array_base", "checked_array", "is_array", "read_array", "write_array"]

_ELEMENT: Final = re.compile(
    r"\|b1|[|<>](?:[iu][1248]|f[248]|c8|c16|[SU][1-9][0-9]{0,8}"
    r"|[mM]8(?:\[(?:[1-9][0-9]{0,8})?(?:Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?)"
)
"""Elements as NumPy names them: booleans, numbers, bytes and text of one length, times."""


def is_array(kind: type) -> bool:
    """
    Tell whether a type is NumPy's array; nobody has one who has not imported NumPy.
    """
    return kind is getattr(sys.modules.get("numpy"), "ndarray", None)


def array_base(value: Any) -> Any:
    """
    Take an instance of a subclass of NumPy's array to the array, or give `NO_STEP`.

    Raises:
        ValueError: It has a mask, which would be lost.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, getattr(numpy, "ndarray", ())):
        return NO_STEP
    if hasattr(value, "mask"):
        raise ValueError("an array with a mask: send array.filled(), and array.mask if it matters")
    return numpy.asarray(value)


def checked_array(value: numpy.ndarray[Any, Any]) -> numpy.ndarray[Any, Any]:
    """
    Return an array that can be sent, as it is.

    Raises:
        ValueError: Its elements cannot be sent.
    """
    if value.dtype.hasobject:
        raise ValueError("its elements are Python objects: send array.tolist()")
    if value.dtype.names is not None:
        raise ValueError("its elements have fields: send a dictionary of one array for each field")
    if not _ELEMENT.fullmatch(value.dtype.str):
        raise ValueError(
            f"elements of type {value.dtype} are not the same everywhere: convert them"
        )
    return value


def write_array(value: numpy.ndarray[Any, Any]) -> Ext:
    """
    Give an array as an extension type.

    Raises:
        ValueError: Its elements cannot be sent.
    """
    flags = checked_array(value).flags
    order: Literal["C", "F"] = "F" if flags.f_contiguous and not flags.c_contiguous else "C"
    return Ext(ARRAY, packb([value.dtype.str, order, list(value.shape), value.tobytes(order)]))


class _Body(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What stands in the extension type."""

    element: str
    order: str
    # At most as many dimensions as NumPy has: the product of many large ones would take long.
    shape: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(max_length=64)]
    data: memoryview


_read_body: Final = Decoder(_Body).decode


def read_array(body: memoryview) -> numpy.ndarray[Any, Any]:
    """
    Read an array from the contents of its extension type; it is new and can be written to.

    Raises:
        PayloadError: NumPy is not installed.
        Exception: It is no array.
    """
    array = _read_body(body)
    if not _ELEMENT.fullmatch(array.element) or array.order not in ("C", "F"):
        raise ValueError(f"{array.element[:40]!r}, {array.order[:4]!r} is no type of an array")
    np = _numpy()
    dtype = np.dtype(array.element)
    if math.prod(array.shape) * dtype.itemsize != array.data.nbytes:
        raise ValueError(
            f"an array of {array.element} {str(array.shape)[:80]} has {array.data.nbytes} bytes"
        )
    _check_elements(np, dtype, array.data)
    # A copy: the receiver's own, aligned, and the message is not kept for it.
    given: numpy.ndarray[Any, Any] = np.ndarray(
        array.shape, dtype, array.data or None, order=array.order
    )
    return given.copy("F" if array.order == "F" else "C")


def _check_elements(np: Any, dtype: Any, data: memoryview) -> None:
    """Refuse bytes that are no booleans or no text: NumPy takes them, and fails later."""
    largest, element = {"b": (1, "u1"), "U": (sys.maxunicode, f"{dtype.str[0]}u4")}.get(
        dtype.kind, (0, "")
    )
    if element and np.frombuffer(data, element).max(initial=0) > largest:
        raise ValueError(f"an array of {dtype.str} has elements that are none")


def _numpy() -> Any:
    try:
        import numpy
    except ImportError as error:
        raise PayloadError(
            "An array arrived, and NumPy is not installed here. Install it, pip install numpy, or "
            "let the sender send array.tolist()."
        ) from error
    return numpy
