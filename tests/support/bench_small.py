"""The benchmark's cases at a small size, and a script that runs one engine on all of them.

In a process of its own: ``python bench_small.py ENGINE`` prints, as JSON, a list of errors for each
case, one for each set of its inputs, or the reason why the engine does not take part.
"""

import dataclasses
import functools
import json
import sys

import numpy as np

import cpuattn
from cpuattn.bench.case import Case
from cpuattn.bench.cases import CASES
from cpuattn.bench.engines import ENGINES, why_not
from cpuattn.bench.exact import distance, exact


def shrink(case: Case) -> Case:
    """Leave 3 sets of inputs, and divide the lengths: about 64 keys, in decode about 1024."""
    case = dataclasses.replace(case, sets=min(case.sets, 3))
    decode = case.queries <= 8
    divisor = case.keys // (1024 if decode else 64)
    if divisor <= 1:
        return case

    def divided(lengths: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(length // divisor for length in lengths)

    queries, keys = divided((case.queries, case.keys))
    if decode:
        queries = case.queries
    documents = divided(case.documents) if case.documents else None
    if documents:
        queries = keys = sum(documents)
    return dataclasses.replace(
        case,
        queries=queries,
        keys=keys,
        documents=documents,
        key_lengths=divided(case.key_lengths) if case.key_lengths else None,
        window=(case.window[0] // divisor, case.window[1]) if case.window else None,
    )


def errors(engine: str, case: Case) -> list[float]:
    """Compare with the exact result; for the other sets with cpuattn in float64."""
    expected = [exact(case)]
    for inputs in case.inputs()[1:]:
        doubles = (x.astype(np.float64) for x in inputs)
        expected.append(cpuattn.attention(*doubles, **case.options()))
    # Only now, as it shares the inputs: an engine that changed them would err.
    prepared = ENGINES[engine].prepare(case, 1)
    prepared.rewind()
    results = [prepared.read(call()).copy() for call in prepared.calls]
    return [distance(case, result, right) for result, right in zip(results, expected, strict=True)]


def main(engine: str) -> None:
    """Run all cases."""
    # Random numbers take most of the time. The engine and both results of a case ask for the same.
    Case.inputs = functools.lru_cache(maxsize=2)(Case.inputs)  # type: ignore[method-assign]
    found: dict[str, list[float] | str] = {}
    for case in map(shrink, CASES):
        reason = why_not(engine, case, "avx512")
        found[case.name] = reason or errors(engine, case)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
