"""Torch tensors as NumPy arrays of the same memory. Torch itself is never imported here."""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray


def is_tensor(obj: object) -> bool:
    """Tell whether an object is a torch tensor, which it can only be once torch is imported."""
    return isinstance(obj, getattr(sys.modules.get("torch"), "Tensor", ()))


def tensor_array(tensor: Any, name: str) -> NDArray[Any]:
    """View a tensor as an array, or raise TypeError if it is not plain memory of the CPU."""
    _check(tensor, name)
    # Its memory holds the values before they were negated: torch refuses a view of it, too.
    if tensor.is_neg():
        raise TypeError(
            f"{name} is a torch tensor with the negative bit, of which there is no view; "
            f"it must be one without, such as {name}.resolve_neg()"
        )
    return _array(tensor, name)


def tensor_values(tensor: Any, name: str) -> NDArray[Any]:
    """Take the values of a tensor for a caller who converts them to a wide dtype anyway.

    bfloat16 comes as float32, for which no package is needed.
    """
    _check(tensor, name)
    tensor = tensor.detach().resolve_neg()
    return _array(tensor.float() if _is_bfloat16(tensor) else tensor, name)


def _is_bfloat16(tensor: Any) -> bool:
    return tensor.dtype is sys.modules["torch"].bfloat16


def _check(tensor: Any, name: str) -> None:
    """Raise TypeError if the elements are not in strided CPU memory, or are tracked by autograd."""
    torch = sys.modules["torch"]
    if tensor.device.type != "cpu":
        raise TypeError(
            f"{name} is a torch tensor on the device {tensor.device}; "
            f"it must be in CPU memory, such as {name}.cpu()"
        )
    if tensor.layout is not torch.strided or tensor.is_quantized:
        kind = "that is quantized" if tensor.is_quantized else f"of layout {tensor.layout}"
        raise TypeError(
            f"{name} is a torch tensor {kind}; it must be a dense one, "
            f"such as {name}.{'dequantize' if tensor.is_quantized else 'to_dense'}()"
        )
    if tensor.requires_grad and torch.is_grad_enabled():
        raise TypeError(
            f"{name} is a torch tensor that requires grad, and no gradient flows through cpuattn; "
            f"pass {name}.detach(), or call within torch.no_grad()"
        )


def _array(tensor: Any, name: str) -> NDArray[Any]:
    narrow = _is_bfloat16(tensor)
    try:
        plain = tensor.detach().resolve_conj()
        array: NDArray[Any] = (plain.view(sys.modules["torch"].int16) if narrow else plain).numpy()
    except (RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"{name} is a torch tensor that gives no CPU array: {error}") from error
    return array.view(_bfloat16(name)) if narrow else array


def _bfloat16(name: str) -> np.dtype[Any]:
    try:
        import ml_dtypes  # noqa: PLC0415 (optional)
    except ImportError:
        raise ImportError(
            f"{name} is a torch tensor of bfloat16, which NumPy holds only with the package "
            f"ml_dtypes; install it, or pass {name}.float()"
        ) from None
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype
