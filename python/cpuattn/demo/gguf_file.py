"""What a GGUF file holds: tensors, expanded to float32, and fields of metadata."""

from pathlib import Path
from typing import IO, Any

import gguf
import numpy as np
from numpy.typing import NDArray

from cpuattn.demo.decoder import Array
from cpuattn.demo.errors import DemoError

REQUIRED = object()


class _Reader(gguf.GGUFReader):
    """Keeps the file as a plain array: the slices of an np.memmap cost three times as much."""

    @property  # type: ignore[override]
    def data(self) -> NDArray[Any]:
        return self._data

    @data.setter
    def data(self, file: NDArray[Any]) -> None:
        self._data = file.view(np.ndarray)


class GGUFFile:
    """A model of any architecture.

    Parameters
    ----------
    file : Path or binary file
        It may be deleted afterwards.

    Raises
    ------
    DemoError
        If it is no GGUF file, or holds a quantization that cannot be expanded.
    """

    def __init__(self, file: Path | IO[bytes]) -> None:
        self._name = str(file) if isinstance(file, Path) else "the model"
        try:
            reader = _Reader(file)  # type: ignore[arg-type] # np.memmap takes open files too
            # float32 tensors come as views of the file.
            self.weights: dict[str, Array] = {
                tensor.name: np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
                for tensor in reader.tensors
            }
            self._fields = {name: field.contents() for name, field in reader.fields.items()}
        except (ValueError, LookupError, NotImplementedError) as error:
            # What the package raises for other, cut and damaged files.
            raise DemoError(f"{self._name}: not a GGUF file that can be read: {error}") from error

    def value(self, name: str, default: Any = REQUIRED) -> Any:
        """Return the value of a metadata field.

        Parameters
        ----------
        name : str
            Such as ``"llama.block_count"``.
        default : optional
            For a file without the field; without a default it is an error.

        Returns
        -------
        object

        Raises
        ------
        DemoError
            If there is no such field and no default.
        """
        if name in self._fields:
            return self._fields[name]
        if default is REQUIRED:
            raise DemoError(f"{self._name}: has no field {name}")
        return default
