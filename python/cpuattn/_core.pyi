from typing import Any, TypedDict, type_check_only

import numpy as np
from numpy.typing import NDArray

__version__: str

@type_check_only
class Config(TypedDict):
    version: str
    compiler: str
    threads_by: str
    isas_compiled: list[str]
    isas_available: list[str]
    isa: str
    num_threads: int

@type_check_only
class Plan(TypedDict):
    kernel: str
    isa: str
    products: str
    query_block: int
    key_block: int
    key_chunk: int
    num_chunks: int
    work_items: int
    threads: int
    scratch_bytes: int
    copies: list[str]

# Arguments are positional only and all given: see _attention.py for their names.
def attention(*args: Any) -> Any: ...
def attention_weights(*args: Any) -> NDArray[Any]: ...
def explain(*args: Any) -> list[Plan]: ...
def append_tokens(*args: Any) -> int | None: ...
def store_tokens(*args: Any) -> None: ...
def config() -> Config: ...
def isas() -> list[str]: ...
def _use_isa(name: str) -> None: ...
def _fma_peak(dtype: str, seconds: float) -> float: ...
def _read_rate(data: NDArray[np.float32], seconds: float) -> float: ...
def ignored_threads() -> str: ...
def get_num_threads() -> int: ...
def set_num_threads(num_threads: int) -> None: ...
