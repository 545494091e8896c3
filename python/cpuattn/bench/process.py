"""The processes of the engines, seen from the one that measures."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import IO, Any, Self, cast

from cpuattn._programs import python_child
from cpuattn.bench.machine import must_hold

# They choose other kernels in NumPy's BLAS than those made for this CPU.
SPOILING_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
# Peers held to AVX2 when cpuattn is, so that the share of the peak means the same.
AVX2_ONLY = {
    "OPENBLAS_CORETYPE": "Haswell",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}


class BenchError(Exception):
    """The benchmark cannot go on; the text says why."""


class EngineError(BenchError):
    """An engine has failed, in its process, which lives on."""

    def __init__(self, engine: str, complaint: str) -> None:
        super().__init__(f"{engine}: {complaint}")
        self.complaint = complaint


def environment(isa: str) -> dict[str, str]:
    """Make the environment of a worker for one instruction set."""
    kept = {name: text for name, text in os.environ.items() if name not in SPOILING_VARIABLES}
    return kept | (AVX2_ONLY if must_hold(isa) else {}) | {"CPUATTN_ISA": isa}


class EngineProcess:
    """One engine in a process of its own, stopped but for the time of a question.

    Threads of OpenMP and of BLAS libraries spin for a while after a call, waiting for the next;
    stopping the process is what keeps them from disturbing the engine that is timed next.
    """

    def __init__(self, engine: str, isa: str) -> None:
        self.engine = engine
        # In a session of its own, Ctrl-C reaches the measuring process only, which ends this one.
        self._process = subprocess.Popen(  # noqa: S603 (this interpreter, this package)
            [*python_child("from cpuattn.bench.worker import main; main()"), engine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(isa),
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        # With the processes that its libraries have started: left alive, they would hold the
        # streams of whoever runs the benchmark.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def ask(self, command: str, **fields: Any) -> Any:
        """Let the engine run, send it a command, wait for the answer and stop it again.

        Raises
        ------
        EngineError
            If the engine fails.
        BenchError
            If its process ends.
        """
        questions = cast("IO[str]", self._process.stdin)
        answers = cast("IO[str]", self._process.stdout)
        self._signal("SIGCONT")
        with contextlib.suppress(BrokenPipeError):
            questions.write(json.dumps({"do": command, **fields}) + "\n")
            questions.flush()
        line = answers.readline()
        if not line:
            raise BenchError(f"{self.engine}: its process ended with {self._process.wait()}")
        self._signal("SIGSTOP")
        answer = json.loads(line)
        if "error" in answer:
            raise EngineError(self.engine, answer["error"])
        return answer["result"]

    def _signal(self, name: str) -> None:
        number = getattr(signal, name, None)  # only POSIX can stop a process
        if number is not None:
            self._process.send_signal(number)


@contextlib.contextmanager
def started(engines: Sequence[str], isa: str) -> Iterator[dict[str, EngineProcess]]:
    """Start engines and end them afterwards."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(EngineProcess(name, isa)) for name in engines}
