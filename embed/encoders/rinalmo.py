"""RiNALMo (Penić et al., Nat Commun 2025;16:5671): RNA language models of up to 650 million parameters.

Rotary positions and SwiGLU.  Its blocks go on from the normalised input, not from the input itself (`order="normed"`),
as the published code does.  The embedded tokens carry the same factor as ESM-2's.
"""

from __future__ import annotations

from crossllm.embed.encoder import Loading
from crossllm.embed.encoders.language_model import Alphabet, Form, LanguageModel, Published, Tensors, renaming
from crossllm.embed.encoders.published_forms import MULTIMOLECULE, MULTIMOLECULE_NAMES, TOKEN_FACTOR
from crossllm.embed.engine.transformer import Design
from crossllm.embed.weights.hf_config import Config, Value, expected_of
from crossllm.embed.weights.model_size import RINALMO_SIZES
from crossllm.embed.weights.torch_file import tensor_problem

SIZES = RINALMO_SIZES
LETTERS = "ACGUIRYKMSWBDHVN-"
ALPHABET = Alphabet(LETTERS, 5, 22, 3, "<unk>", start=0, end=2, pad=1)
"""Of the official weights, whose T is our U."""

_OFFICIAL = renaming(
    (r"^embedding\.", "tokens."),
    (r"^transformer\.blocks\.(\d+)\.", r"layers.\1."),
    (r"\.mh_attn\.mh_attn\.", ".mh_attn."),
    (r"\.mh_attn\.to_q\.", ".query."),
    (r"\.mh_attn\.to_k\.", ".key."),
    (r"\.mh_attn\.to_v\.", ".value."),
    (r"\.mh_attn\.out_proj\.", ".out."),
    (r"\.attn_layer_norm\.", ".attention_norm."),
    (r"\.out_layer_norm\.", ".inner_norm."),
    (r"\.transition\.0\.linear\.", ".up."),
    (r"\.transition\.0\.linear_gate\.", ".gate."),
    (r"\.transition\.0\.beta$", ".beta"),
    (r"\.transition\.2\.", ".down."),
    (r"^transformer\.final_layer_norm\.", "final_norm."),
)
_CONVERTED = renaming(
    *MULTIMOLECULE_NAMES,
    (r"\.intermediate\.linear\.", ".up."),
    (r"\.intermediate\.linear_gate\.", ".gate."),
    (r"\.intermediate\.bias$", ".beta"),
)
_UNUSED = r"lm_mask_head\..*|lm_head\..*|pooler\..*|layers\.\d+\..*inv_freq|embeddings\.position_ids"
_ABSENT: dict[str, Value] = {
    "vocab_size": 28,
    "hidden_size": 1280,
    "num_hidden_layers": 33,
    "num_attention_heads": 20,
    "intermediate_size": 5120,
}
"""Of multimolecule's `RiNALMoConfig`, whose other defaults are RiNALMo's."""


def _official(found: Tensors) -> Tensors:
    """The names of the published state dict, its joined q, k and v cut apart."""
    named = _OFFICIAL(found)
    for name in [name for name in named if name.endswith(".mh_attn.Wqkv.weight")]:
        if tensor_problem(named[name]) is None:
            layer = name.removesuffix(".mh_attn.Wqkv.weight")
            parts = named.pop(name).tensor_split(3)
            named |= {f"{layer}.{part}.weight": t for part, t in zip(("query", "key", "value"), parts, strict=True)}
    return named


def published(width: int, layers: int, heads: int) -> Published:
    """The model of a size: the official state dict, or multimolecule's safetensors."""
    inner = int(2 / 3 * 4 * width)
    design = Design(
        width, layers, heads, inner, ALPHABET.size,
        token_factor=TOKEN_FACTOR, order="normed", gated=True, attention_bias=False,
    )  # fmt: skip
    # multimolecule states the inner width as it is before the two thirds of SwiGLU.
    expected = expected_of(design, MULTIMOLECULE.size) | {"intermediate_size": 4 * width}
    forms = (
        Form(r"transformer\.blocks\.", ALPHABET, _official, _UNUSED),
        Form(
            r"((model|rinalmo)\.)?encoder\.layer\.",
            MULTIMOLECULE,
            _CONVERTED,
            _UNUSED,
            Config("rinalmo", expected, _ABSENT),
        ),
    )
    return Published(design, forms)


def load(loading: Loading) -> LanguageModel:
    """The encoder of a recipe."""
    return LanguageModel(loading, published(*SIZES[loading.recipe.encoder]))
