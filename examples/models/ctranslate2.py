"""Read the weights of a model file of CTranslate2: one list of named arrays."""

import io
import struct

import numpy as np
from numpy.typing import NDArray

from models.parts import Array

VERSION = 6
DTYPES = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}


def read_weights(content: bytes) -> dict[str, Array]:
    """Return every array of a ``model.bin`` by its name, as float32.

    Parameters
    ----------
    content : bytes
        The file: a head, then for each array its name, shape, type and numbers, then other names
        for arrays that are used twice.

    Returns
    -------
    dict of str to ndarray
        Matrices are (out, in).

    Raises
    ------
    ValueError
        If the file has another version or does not end where the last name ends.
    """
    file = io.BytesIO(content)
    version, _model, _revision = _number(file, "I"), _text(file), _number(file, "I")
    if version != VERSION:
        raise ValueError(f"content must be of version {VERSION}, got {version}")
    arrays = {}
    for _ in range(_number(file, "I")):
        name = _text(file)
        shape = [_number(file, "I") for _ in range(_number(file, "B"))]
        dtype, size = DTYPES[_number(file, "B")], _number(file, "I")
        array: NDArray[np.generic] = np.frombuffer(file.read(size), dtype)
        arrays[name] = array.reshape(shape).astype(np.float32)
    for _ in range(_number(file, "I")):
        alias, name = _text(file), _text(file)
        arrays[alias] = arrays[name]
    if file.tell() != len(content):
        raise ValueError(f"content must end at byte {file.tell()}, got {len(content)} bytes")
    return arrays


def _number(file: io.BytesIO, kind: str) -> int:
    """Read an unsigned number: B of 1 byte, H of 2, I of 4."""
    (number,) = struct.unpack(f"<{kind}", file.read(struct.calcsize(f"<{kind}")))
    return int(number)


def _text(file: io.BytesIO) -> str:
    """Read a text: its length, its letters, a zero."""
    return file.read(_number(file, "H")).rstrip(b"\0").decode()
