"""What the environment chooses: the instruction set and the number of threads."""

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
