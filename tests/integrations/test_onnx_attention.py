"""ONNX's own node tests of Attention and RotaryEmbedding: all of them, by its own tolerances."""

from unittest.mock import Mock

import pytest

pytest.importorskip("onnx", reason="onnx is not installed")

import cpuattn
import onnx_cases
from cpuattn.integrations import onnx, onnx_ops

CASES = {
    "Attention": onnx_cases.cases("Attention"),
    "RotaryEmbedding": onnx_cases.cases("RotaryEmbedding"),
}


def test_the_suite_is_there() -> None:
    # As many as onnx 1.23 has; a loader that finds nothing would pass everything.
    assert len(CASES["Attention"]) >= 93
    assert len(CASES["RotaryEmbedding"]) >= 8
    assert {onnx_cases.opset(case) for case in CASES["Attention"]} >= {23, 24, 25}


@pytest.mark.parametrize("case", CASES["Attention"], ids=lambda case: case.name)
def test_attention(case: onnx_cases.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Mock(wraps=onnx.attention)
    monkeypatch.setattr(onnx_ops, "attention", ours)
    onnx_cases.check(case, onnx_ops.Attention)
    assert ours.call_count == 1


@pytest.mark.parametrize("case", CASES["RotaryEmbedding"], ids=lambda case: case.name)
def test_rotary_embedding(case: onnx_cases.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Mock(wraps=cpuattn.rotary_embedding)
    monkeypatch.setattr(onnx_ops, "rotary_embedding", ours)
    onnx_cases.check(case, onnx_ops.RotaryEmbedding)
    assert ours.call_count == 1
