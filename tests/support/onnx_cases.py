"""The node tests that the package onnx brings, those that contain one operator."""

import functools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

# By its own name pytest would take it for a test of ours.
Case = TestCase


@functools.cache
def _all_cases() -> list[Case]:
    with warnings.catch_warnings():
        # Some operators' cases overflow or divide by zero on purpose while they are made.
        warnings.simplefilter("ignore")
        return list(load_model_tests(kind="node"))


def cases(op_type: str) -> list[Case]:
    """Return every node test whose model contains the operator, anywhere."""
    return [case for case in _all_cases() if op_type in _op_types(case.model)]


def _op_types(model: onnx.ModelProto | None) -> set[str]:
    assert model is not None
    nodes = [node for function in model.functions for node in _nodes(function.node)]
    return {node.op_type for node in [*nodes, *_nodes(model.graph.node)] if node.domain == ""}


def _nodes(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes and those of their subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g.node)


def opset(case: Case) -> int:
    """Return the version of the default domain that a case asks for."""
    assert case.model is not None
    (version,) = (entry.version for entry in case.model.opset_import if entry.domain == "")
    return int(version)


def check(case: Case, op: type[OpRun]) -> None:
    """Run a case with an operator replaced, and compare as onnx's own runner does."""
    assert case.model is not None
    evaluator = ReferenceEvaluator(case.model, new_ops=[op])
    names = [value.name for value in case.model.graph.input]
    assert case.data_sets
    for inputs, expected in case.data_sets:
        found: Any = evaluator.run(None, dict(zip(names, inputs, strict=True)))
        Runner.assert_similar_outputs(expected, found, rtol=case.rtol, atol=case.atol)
