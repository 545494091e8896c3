"""cpuattn itself."""

from functools import partial

import cpuattn
from cpuattn import _core
from cpuattn.bench.case import Case
from cpuattn.bench.engines.engine import Engine, Prepared


def prepare(case: Case, threads: int) -> Prepared:
    """`cpuattn.attention`; the instruction set is that of ``CPUATTN_ISA``."""
    options = case.options() | {"num_threads": threads}
    return Prepared(
        [
            partial(cpuattn.attention, *arrays, **options, out=case.output())
            for arrays in case.inputs()
        ]
    )


def versions() -> dict[str, str]:
    """Name cpuattn and its compiler."""
    config = _core.config()
    return {"cpuattn": config["version"], "cpuattn's compiler": config["compiler"]}


ENGINE = Engine(prepare, versions)
