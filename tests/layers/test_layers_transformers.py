"""State dicts of transformers' own attention modules, whose results the layer must give."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from cpuattn import MultiHeadAttention
from oracle import Array

torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: nothing to compare with"
)

E, HEADS, D, L = 24, 6, 4, 5
SIZES = {"hidden_size": E, "num_attention_heads": HEADS, "num_hidden_layers": 1}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": D}
RENAMED = {"n_embd": E, "n_head": HEADS}


@dataclass(frozen=True)
class Model:
    """How to make a module of transformers, and the layer that is to be the same."""

    family: str
    module: str
    config: str
    sizes: dict[str, Any]
    layer: dict[str, Any] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    call: dict[str, Any] = field(default_factory=dict)
    rotary: int = 0  # features that are turned
    index: bool = True  # the module takes a layer_idx


MODELS = {
    "gpt2": Model("gpt2", "GPT2Attention", "GPT2Config", RENAMED),
    "gpt_neox": Model(
        "gpt_neox",
        "GPTNeoXAttention",
        "GPTNeoXConfig",
        SIZES | {"rotary_pct": 0.5},
        rotary=2,
    ),
    "bloom": Model("bloom", "BloomAttention", "BloomConfig", {"hidden_size": E, "n_head": HEADS}),
    "falcon, multi-query": Model(
        "falcon", "FalconAttention", "FalconConfig", SIZES, {"kv_heads": 1, "bias": False}, rotary=4
    ),
    "falcon, grouped": Model(
        "falcon",
        "FalconAttention",
        "FalconConfig",
        SIZES | {"new_decoder_architecture": True, "num_kv_heads": 2},
        {"kv_heads": 2, "bias": False},
        rotary=4,
    ),
    "falcon, all heads": Model(
        "falcon",
        "FalconAttention",
        "FalconConfig",
        SIZES | {"multi_query": False, "bias": True},
        rotary=4,
    ),
    "phi3": Model(
        "phi3",
        "Phi3Attention",
        "Phi3Config",
        SIZES | {"num_key_value_heads": 2, "pad_token_id": 0},
        {"kv_heads": 2, "bias": False},
        rotary=4,
    ),
    "qwen3": Model(
        "qwen3",
        "Qwen3Attention",
        "Qwen3Config",
        GROUPED,
        {"kv_heads": 2, "bias": False},
        rotary=4,
    ),
    "gemma3": Model(
        "gemma3",
        "Gemma3Attention",
        "Gemma3TextConfig",
        GROUPED | {"query_pre_attn_scalar": 9},
        {"kv_heads": 2, "bias": False},
        {"norm_offset": 1},
        {"scale": 1 / 3},
        rotary=4,
    ),
    "olmo2": Model(
        "olmo2",
        "Olmo2Attention",
        "Olmo2Config",
        SIZES | {"num_key_value_heads": 2, "rms_norm_eps": 1e-2},
        {"kv_heads": 2, "bias": False, "norm_eps": 1e-2},
        rotary=4,
    ),
    "gpt_oss": Model(
        "gpt_oss", "GptOssAttention", "GptOssConfig", GROUPED, {"kv_heads": 2}, rotary=4
    ),
    "gpt_bigcode, multi-query": Model(
        "gpt_bigcode",
        "GPTBigCodeAttention",
        "GPTBigCodeConfig",
        RENAMED,
        {"kv_heads": 1},
    ),
    "gpt_bigcode, all heads": Model(
        "gpt_bigcode",
        "GPTBigCodeAttention",
        "GPTBigCodeConfig",
        RENAMED | {"multi_query": False},
        load={"layout": "grouped"},
    ),
    "bert": Model("bert", "BertAttention", "BertConfig", SIZES, index=False),
    "distilbert": Model(
        "distilbert",
        "DistilBertSelfAttention",
        "DistilBertConfig",
        {"dim": E, "n_heads": HEADS},
        index=False,
    ),
    "mpt": Model(
        "mpt", "MptAttention", "MptConfig", {"d_model": E, "n_heads": HEADS}, {"bias": False}
    ),
}


def tables(features: int) -> tuple[Array, Array]:
    """Cosines and sines as transformers has them: (1, L, features), each angle twice."""
    angles = np.arange(L)[:, None] * 10.0 ** -np.arange(features // 2)
    whole = np.concatenate([angles, angles], axis=-1)[None].astype(np.float32)
    return np.cos(whole), np.sin(whole)


def module_of(model: Model) -> Any:
    """Make a module with random weights, those of norms included."""
    try:
        source = importlib.import_module(
            f"transformers.models.{model.family}.modeling_{model.family}"
        )
        config = getattr(transformers, model.config)(**model.sizes)
        config._attn_implementation = "eager"
        made = getattr(source, model.module)(config, *([0] if model.index else []))
    except (ImportError, AttributeError, TypeError) as error:
        pytest.skip(f"this transformers has another {model.module}: {error}")
    torch.manual_seed(0)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made.eval()


def run_plain(module: Any, model: Model, x: Any, mask: Any) -> Any:
    cos, sin = map(torch.from_numpy, tables(model.rotary or 2))
    rotary = {"position_embeddings": (cos, sin)} if model.rotary else {}
    return module(x, attention_mask=mask, **rotary)[0]


def run_falcon(module: Any, model: Model, x: Any, mask: Any) -> Any:
    cos, sin = map(torch.from_numpy, tables(model.rotary))
    return module(x, alibi=None, attention_mask=mask, position_embeddings=(cos, sin))[0]


def run_bloom(module: Any, _model: Model, x: Any, mask: Any) -> Any:
    no_alibi = torch.zeros(len(x) * HEADS, 1, L)
    return module(x, residual=torch.zeros_like(x), alibi=no_alibi, attention_mask=mask)[0]


def run_mpt(module: Any, _model: Model, x: Any, mask: Any) -> Any:
    return module(x, position_bias=torch.zeros(HEADS, 1, L), attention_mask=mask[0, 0] < 0)[0]


def run_gpt_oss(module: Any, model: Model, x: Any, mask: Any) -> Any:
    """With tables of a column for each angle."""
    cos, sin = (torch.from_numpy(t[..., : model.rotary // 2]) for t in tables(model.rotary))
    return module(x, attention_mask=mask, position_embeddings=(cos, sin))[0]


def run_bert(module: Any, _model: Model, x: Any, mask: Any) -> Any:
    """Without the LayerNorm of the sum, which is no part of the layer."""
    return module.output.dense(module.self(x, attention_mask=mask)[0])


RUN: dict[str, Callable[[Any, Model, Any, Any], Any]] = {
    "falcon": run_falcon,
    "bloom": run_bloom,
    "mpt": run_mpt,
    "bert": run_bert,
    "gpt_oss": run_gpt_oss,
}


@pytest.mark.parametrize("name", MODELS)
def test_module(name: str) -> None:
    model = MODELS[name]
    module = module_of(model)
    x = np.random.default_rng(0).standard_normal((2, L, E), np.float32)
    mask = torch.full((L, L), torch.finfo(torch.float32).min).triu(1)[None, None]
    with torch.no_grad():
        run = RUN.get(model.family, run_plain)
        expected = run(module, model, torch.from_numpy(x), mask).numpy()

    layer = MultiHeadAttention(E, HEADS, rng=0, **model.layer)
    prefix = "model.layers.0.attn."
    state = {f"{prefix}{key}": tensor for key, tensor in module.state_dict().items()}
    layer.load_state_dict(state, prefix=prefix, **model.load)
    options: dict[str, Any] = dict(model.call)
    if model.rotary:
        options["rope"] = (*tables(model.rotary), False, model.rotary)
    got = layer(x, causal=True, **options)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * abs(expected).max())
