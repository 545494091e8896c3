"""Arrays of other libraries: read and written where they lie, or refused by name."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import cpuattn
from cpuattn import KVCache, MultiHeadAttention
from oracle import Array

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def random(*shape: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(shape).standard_normal(shape).astype(dtype)


X = random(1, 2, 3, 4)
NARROW = X.astype(BFLOAT16)


class Exporter:
    """An array whose DLPack export fails, as that of bfloat16 does, but not its __array__."""

    def __init__(self, array: Any, device: int = 1) -> None:
        self.array, self.device = array, device

    def __dlpack__(self, **_: object) -> object:
        raise RuntimeError("Unsupported dtype in DLTensor.")

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.array


class Shared:
    """An array that only DLPack gives."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __dlpack__(self, **arguments: Any) -> object:
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


def calls(x: Any, narrow: Array) -> dict[str, tuple[Any, Any]]:
    """Give results with x, and the same with an array of NumPy."""
    table, plain = random(3, 2), narrow.astype(np.float32)

    def held(value: Any) -> Any:
        cache = KVCache(1, 2, 4, dtype="bfloat16")
        cache.append(value, value)
        return cache.keys

    functions: list[Callable[[Any], Any]] = [
        lambda a: cpuattn.attention(a, narrow, narrow),
        lambda a: cpuattn.attention(narrow, a, a),
        lambda a: cpuattn.attention(plain, plain, plain, bias=a[..., :3]),
        lambda a: cpuattn.attention(plain, plain, plain, sinks=a[0, :, 0, 0]),
        lambda a: cpuattn.attention(plain, plain, plain, alibi_slopes=[a[0, 0, 0, 0], 1.0]),
        lambda a: cpuattn.attention_weights(a, narrow),
        lambda a: cpuattn.rotary_embedding(a, table, table),
        lambda a: cpuattn.rotary_embedding(plain, a[0, 0, :, :2], table),
        lambda a: cpuattn.quantize_int8(a)[0],
        lambda a: cpuattn.merge_attention([a], [table[:, 0] * np.ones((1, 2, 1), "f4")])[0],
        held,
    ]
    return {str(i): (f(x), f(narrow)) for i, f in enumerate(functions)}


def assert_same(results: dict[str, tuple[Any, Any]]) -> None:
    for name, (got, expected) in results.items():
        assert got.dtype == expected.dtype, name
        wide = got.astype(np.float64), expected.astype(np.float64)
        np.testing.assert_array_equal(*wide, err_msg=name)


class Sliced(Exporter):
    def __getitem__(self, index: Any) -> "Sliced":
        return Sliced(np.asarray(self.array[index]))


def test_bfloat16_that_dlpack_cannot_give() -> None:
    assert_same(calls(Sliced(NARROW), NARROW))


def test_bfloat16_of_jax() -> None:
    jnp = pytest.importorskip("jax.numpy", reason="JAX is not installed: no arrays of it")
    x = jnp.asarray(NARROW)
    assert_same(calls(x, NARROW))
    assert np.asarray(x).ctypes.data == x.unsafe_buffer_pointer()  # it is no copy that is read


def test_options_of_jax() -> None:
    jnp = pytest.importorskip("jax.numpy", reason="JAX is not installed: no arrays of it")
    options = {
        "mask": np.array([[True, False, True]]),
        "bias": random(3, 3, dtype=np.float16),
        "key_lengths": np.array([2]),
        "sinks": np.ones(2, BFLOAT16),
    }
    expected = cpuattn.attention(X, X, X, **options)  # type: ignore[call-overload]
    x = jnp.asarray(X)
    got = cpuattn.attention(x, x, x, **{n: jnp.asarray(a) for n, a in options.items()})
    np.testing.assert_array_equal(got, expected)
    with pytest.raises(ValueError, match="out is read-only"):
        cpuattn.attention(x, x, x, out=jnp.zeros(X.shape))


def test_other_devices_are_not_copied_from() -> None:
    exported: Any = Exporter(X, device=2)
    message = r"key .*Exporter on a device of DLPack's type 2; it must be in CPU memory"
    with pytest.raises(TypeError, match=message):
        cpuattn.attention(X, Exporter(X, device=2), X)
    with pytest.raises(TypeError, match=r"sinks .* on a device"):
        cpuattn.attention(X, X, X, sinks=Exporter(X[0, :, 0, 0], device=2))
    with pytest.raises(TypeError, match=r"out .* on a device"):
        cpuattn.attention(X, X, X, out=exported)


def test_what_holds_no_array_is_named() -> None:
    with pytest.raises(ValueError, match="sinks cannot be converted to an array"):
        cpuattn.attention(X, X, X, sinks=[[1.0], [1.0, 2.0]])
    with pytest.raises(TypeError, match="value is of type Exporter and gives no CPU array"):
        cpuattn.attention(X, X, type("Exporter", (Shared,), {})(X.astype("M8[s]")))


def test_outputs_that_are_no_plain_arrays(tmp_path: Any) -> None:
    expected = cpuattn.attention(X, X, X)
    memory = np.memmap(tmp_path / "out", np.float32, "w+", shape=X.shape)
    assert cpuattn.attention(X, X, X, out=memory) is memory
    np.testing.assert_array_equal(memory, expected)
    memory_of_another = np.zeros_like(X)
    written: Any = Shared(memory_of_another)
    assert cpuattn.attention(X, X, X, out=written) is written
    np.testing.assert_array_equal(memory_of_another, expected)
    refused: Any
    for refused in (X.tolist(), Exporter(X.copy())):
        with pytest.raises(TypeError, match="out is of type"):
            cpuattn.attention(X, X, X, out=refused)
    with pytest.raises(ValueError, match="out overlaps value"):
        cpuattn.attention(X, X, memory_of_another, out=written)


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed: no tensors of it")


def test_bfloat16_of_torch(torch: Any) -> None:
    x = torch.from_numpy(X).bfloat16()
    assert_same(calls(x, NARROW))
    assert_same(calls(x.mT.contiguous().mT, NARROW))
    names = [f"{n}_proj.weight" for n in "qkvo"]
    state = {name: random(4, 4).astype(BFLOAT16) for name in names}
    layers = [MultiHeadAttention(4, 1, bias=False) for _ in range(2)]
    layers[0].load_state_dict(state)
    layers[1].load_state_dict(
        {
            n: torch.nn.Parameter(torch.from_numpy(w.astype("f4")).bfloat16())
            for n, w in state.items()
        }
    )
    np.testing.assert_array_equal(layers[0](X[0]), layers[1](X[0]))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_outputs_of_torch(torch: Any, dtype: str) -> None:
    x, lse = torch.from_numpy(X), cpuattn.attention(X, X, X, return_lse=True)[1]
    expected = torch.from_numpy(cpuattn.attention(X, X, X)).to(getattr(torch, dtype))
    for out in (
        torch.zeros(X.shape, dtype=expected.dtype),
        torch.zeros(1, 3, 2, 4, dtype=expected.dtype).transpose(1, 2),
        torch.zeros(1, 2, 3, 8, dtype=expected.dtype)[..., ::2],
    ):
        result, row_lse = cpuattn.attention(x, x, x, out=out, return_lse=True)
        assert result is out
        assert torch.equal(out, expected)
        np.testing.assert_array_equal(row_lse, lse)
    weights = torch.zeros(1, 2, 3, 3)
    assert cpuattn.attention_weights(x, x, out=weights) is weights
    packed, out = x[0].transpose(0, 1), torch.zeros(3, 2, 4)
    assert cpuattn.attention_varlen(packed, packed, packed, [0, 3], [0, 3], out=out) is out
    assert torch.equal(out.transpose(0, 1), torch.from_numpy(cpuattn.attention(X, X, X))[0])
    for cache in (KVCache(1, 2, 4), KVCache(1, 2, 4, window=2, sink_tokens=1)):
        out = torch.zeros(X.shape, dtype=expected.dtype)
        cache.append(x, x)
        assert cache.attend(x, out=out) is out
        assert torch.equal(out, torch.from_numpy(cache.attend(X)).to(out.dtype))


def test_tensors_are_read_where_they_lie(torch: Any) -> None:
    big = torch.zeros(1, 1, 1 << 20, 8)
    for x in (big, big.bfloat16()):
        own = cpuattn._arrays.as_array(x, "x")
        assert own.ctypes.data == x.data_ptr()


def test_tensors_with_the_negative_bit(torch: Any) -> None:
    negative = torch.complex(torch.zeros(X.shape), torch.from_numpy(X)).conj().imag
    assert negative.is_neg()
    for name in ("query", "key", "value", "bias", "out"):
        arguments = {"query": X, "key": X, "value": X} | {
            name: negative[..., :3] if name == "bias" else negative
        }
        with pytest.raises(TypeError, match=rf"{name} .*negative bit.*{name}.resolve_neg\(\)"):
            cpuattn.attention(**arguments)
    with pytest.raises(TypeError, match=r"key .* negative bit"):
        KVCache(1, 2, 4).append(negative, negative)
    # Numbers that are converted anyway have their sign.
    got = cpuattn.attention(X, X, X, sinks=negative[0, :, 0, 0])
    np.testing.assert_array_equal(got, cpuattn.attention(X, X, X, sinks=-X[0, :, 0, 0]))


def unusable(torch: Any) -> dict[str, tuple[Any, str]]:
    x = torch.from_numpy(X.copy())
    return {
        "device": (x.to("meta"), r"on the device meta; .* \w+\.cpu\(\)"),
        "sparse": (x.to_sparse(), r"of layout torch.sparse_coo; .* \w+\.to_dense\(\)"),
        "float8": (x.to(torch.float8_e4m3fn), "gives no CPU array"),
        "gradient": (torch.nn.Parameter(x), r"requires grad.*\w+\.detach\(\)"),
        "complex": (x.to(torch.complex64).conj(), "complex64"),
        "integer": (x.int(), "int32"),
    }


@pytest.mark.parametrize("kind", ["device", "sparse", "float8", "gradient", "complex", "integer"])
@pytest.mark.parametrize(
    "name", ["query", "key", "value", "bias", "sinks", "alibi_slopes", "key_lengths", "mask", "out"]
)
def test_tensors_that_are_refused(torch: Any, kind: str, name: str) -> None:
    tensor, message = unusable(torch)[kind]
    if name in ("sinks", "alibi_slopes"):
        if kind == "integer":
            return  # whole numbers are numbers
        tensor = tensor if kind == "sparse" else tensor[0, :, 0, 0]
    if name == "key_lengths" and kind == "integer":
        tensor, message = tensor.float(), "float32"
    with pytest.raises(TypeError, match=f"{name}.*{message}"):
        cpuattn.attention(**({"query": X, "key": X, "value": X} | {name: tensor}))


def test_parameters_without_gradients(torch: Any) -> None:
    with torch.no_grad():
        got = cpuattn.attention(X, X, X, sinks=torch.nn.Parameter(torch.ones(2)))
    np.testing.assert_array_equal(got, cpuattn.attention(X, X, X, sinks=[1.0, 1.0]))


WITHOUT_ML_DTYPES = """
import sys
sys.modules["ml_dtypes"] = None
import numpy as np, torch, cpuattn
x = np.ones((1, 2, 3, 4), np.float32)
sinks = torch.tensor([0.5, 2.0], dtype=torch.bfloat16)
same = cpuattn.attention(x, x, x, sinks=sinks) == cpuattn.attention(x, x, x, sinks=[0.5, 2.0])
assert same.all()
weights = {f"{n}_proj.weight": torch.ones(4, 4).bfloat16() for n in "qkvo"}
cpuattn.MultiHeadAttention(4, 1, bias=False).load_state_dict(weights)
try:
    cpuattn.attention(torch.ones(3, 4).bfloat16(), x[0, 0], x[0, 0])
except ImportError as error:
    print(error)
"""


def test_bfloat16_of_torch_without_ml_dtypes(torch: Any) -> None:
    assert torch
    command = [sys.executable, "-c", WITHOUT_ML_DTYPES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "query is a torch tensor of bfloat16" in done.stdout
    assert "ml_dtypes" in done.stdout
    assert "query.float()" in done.stdout


def test_neither_torch_nor_jax_is_imported() -> None:
    code = (
        "import sys, numpy as np, cpuattn; x = np.ones((3, 4)); cpuattn.attention(x, x, x, "
        "key_lengths=[2], sinks=[1.0]); sys.exit(bool({'torch', 'jax'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
