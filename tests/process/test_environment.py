"""What the environment chooses: the instruction set and the number of threads."""

import ctypes.util
import os

import pytest

import cpuattn
from scripts import run_python, start_python

GET = "import cpuattn; print(cpuattn.get_num_threads())"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"CPUATTN_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "5"}, 5),
        ({"CPUATTN_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
        ({"CPUATTN_NUM_THREADS": " 3 "}, 3),
        ({"CPUATTN_NUM_THREADS": "3", "OMP_NUM_THREADS": "junk"}, 3),
        ({"CPUATTN_NUM_THREADS": "  ", "OMP_NUM_THREADS": " 4 "}, 4),
        ({"OMP_NUM_THREADS": "4 , 2"}, 4),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
    ],
)
def test_environment(environment: dict[str, str], expected: int) -> None:
    assert int(run_python("-c", GET, environment=environment)) == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this system")
def test_default_is_the_cpus_of_this_process() -> None:
    cpus = os.sched_getaffinity(0)
    assert int(run_python("-c", GET)) == len(cpus)
    one = f"import os; os.sched_setaffinity(0, {{{min(cpus)}}}); " + GET
    assert int(run_python("-c", one)) == 1


@pytest.mark.parametrize("name", cpuattn.isas())
def test_instruction_set(name: str) -> None:
    script = (
        "import numpy as np, cpuattn; x = np.ones((2, 2)); print(cpuattn.explain(x, x, x)['isa'])"
    )
    assert run_python("-c", script, environment={"CPUATTN_ISA": name}).strip() == name


CALL = "import numpy as np, cpuattn; x = np.ones((2, 2), 'f4'); cpuattn.attention(x, x, x)"


def test_unknown_instruction_set_lists_the_known() -> None:
    result = start_python("-c", CALL, environment={"CPUATTN_ISA": "sse9"})
    assert result.returncode == 1
    for part in ("CPUATTN_ISA", "sse9", *cpuattn.isas()):
        assert part in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("number", ["0", "-2", "many", "1.5"])
def test_bad_number_of_threads_in_the_environment(number: str) -> None:
    result = start_python("-c", CALL, environment={"CPUATTN_NUM_THREADS": number})
    assert result.returncode == 1
    for part in ("CPUATTN_NUM_THREADS", number):
        assert part in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("number", ["0", "-2", "auto", "1.5", "4 2", "4;2", ",4", "9" * 30])
def test_nonsense_for_openmp_is_ignored_with_a_warning(number: str) -> None:
    default = int(run_python("-c", GET))
    result = start_python("-c", GET, environment={"OMP_NUM_THREADS": number})
    assert int(result.stdout) == default
    assert result.stderr.count("RuntimeWarning") == 1
    assert f"OMP_NUM_THREADS='{number}'" in result.stderr


@pytest.mark.parametrize("number", ["", "  "])
def test_blanks_say_nothing(number: str) -> None:
    for name in ("CPUATTN_NUM_THREADS", "OMP_NUM_THREADS"):
        result = start_python("-W", "error", "-c", GET, environment={name: number})
        assert int(result.stdout) == int(run_python("-c", GET))


@pytest.mark.skipif(not ctypes.util.find_library("gomp"), reason="no libgomp on this system")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OMP_PROC_BIND", "true"),
        ("OMP_PROC_BIND", "spread"),
        ("OMP_PLACES", "cores"),
        ("GOMP_CPU_AFFINITY", "0-1"),
    ],
)
@pytest.mark.parametrize("first", ["import cpuattn;", "", "cpuattn.get_num_threads();"])
@pytest.mark.parametrize("cpus", ["all", "the last"])
def test_openmp_binds_the_first_thread(name: str, value: str, first: str, cpus: str) -> None:
    """libgomp does so as it is loaded: the CPUs of the process stay as many."""
    script = f"import ctypes; {first} ctypes.CDLL({ctypes.util.find_library('gomp')!r}); {GET}"
    if "get_num_threads" in first:
        script = "import cpuattn; " + script
    before = os.sched_getaffinity(0)
    wanted = before if cpus == "all" else {max(before)}
    try:
        os.sched_setaffinity(0, wanted)  # as taskset does
        got = int(run_python("-c", script, environment={name: value}))
    finally:
        os.sched_setaffinity(0, before)
    assert got == len(wanted)


@pytest.mark.skipif(not ctypes.util.find_library("gomp"), reason="no libgomp on this system")
def test_workers_stay_on_the_cpus_of_the_process() -> None:
    """Also where libgomp has bound the calling thread before the pool begins."""
    script = f"""
import ctypes, os
ctypes.CDLL({ctypes.util.find_library("gomp")!r})
import numpy as np, cpuattn
x = np.ones((8, 500, 64), np.float32)
cpuattn.attention(x, x, x, num_threads=3)
print(*(cpu for task in os.listdir("/proc/self/task") for cpu in os.sched_getaffinity(int(task))))
"""
    before = os.sched_getaffinity(0)
    last = max(before)
    try:
        os.sched_setaffinity(0, {last})
        printed = run_python("-c", script, environment={"OMP_PROC_BIND": "true"})
    finally:
        os.sched_setaffinity(0, before)
    assert set(map(int, printed.split())) == {last}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this system")
def test_affinity_of_a_thread_is_not_that_of_the_process() -> None:
    script = f"""
import os, threading, cpuattn
def pinned():
    os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
    cpuattn.get_num_threads()
thread = threading.Thread(target=pinned)
thread.start()
thread.join()
{GET}
"""
    assert int(run_python("-c", script)) == len(os.sched_getaffinity(0))
