"""ESM-2 (Lin et al., Science 2023;379:1123): protein language models of 8 million to 15 billion parameters.

Rotary positions, norms before, GELU.  The masks of its training (15 % of the residues, 80 % of those as <mask>) are
made up for by a factor of 0.88 on the embedded tokens wherever nothing is masked, which is always here.
"""

from __future__ import annotations

from crossllm.embed.encoder import Loading
from crossllm.embed.encoders.language_model import Alphabet, Form, LanguageModel, Published, renaming
from crossllm.embed.encoders.published_forms import FAIR_NAMES, TOKEN_FACTOR
from crossllm.embed.engine.transformer import Design
from crossllm.embed.weights.hf_config import Config, Value, expected_of
from crossllm.embed.weights.model_size import ESM2_SIZES

SIZES = ESM2_SIZES
ALPHABET = Alphabet("LAGVSERTIDPKQNFYMHWCXBUZO.-", 4, 33, 3, "<unk>", start=0, end=2, pad=1)

_HUGGING_FACE = renaming(
    (r"^esm\.", ""),
    (r"\.LayerNorm\.gamma$", ".LayerNorm.weight"),
    (r"\.LayerNorm\.beta$", ".LayerNorm.bias"),
    (r"^embeddings\.word_embeddings\.", "tokens."),
    (r"^encoder\.layer\.(\d+)\.", r"layers.\1."),
    (r"\.attention\.self\.(query|key|value)\.", r".\1."),
    (r"\.attention\.output\.dense\.", ".out."),
    (r"\.attention\.LayerNorm\.", ".attention_norm."),
    (r"\.intermediate\.dense\.", ".up."),
    (r"\.output\.dense\.", ".down."),
    (r"^(layers\.\d+)\.LayerNorm\.", r"\1.inner_norm."),
    (r"^encoder\.emb_layer_norm_after\.", "final_norm."),
)
_UNUSED = (
    r"lm_head\..*|contact_head\..*|version|layers\.\d+\.self_attn\.rot_emb\.inv_freq|pooler\..*|"
    r"embeddings\.position_(ids|embeddings\.weight)|(.*\.)?rotary_embeddings\.inv_freq"
)
"""The published Hugging Face files hold a table of positions (1026, D), which transformers leaves unread where
`position_embedding_type` is `rotary`.  Where it is not, `config.json` says so and is refused."""
_ABSENT: dict[str, Value] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
    "token_dropout": False,
    "emb_layer_norm_before": False,
}
"""Of transformers' `EsmConfig`: the defaults are not ESM-2's."""


def published(width: int, layers: int, heads: int) -> Published:
    """The model of a size: fair-esm's `.pt`, or the safetensors of a Hugging Face folder."""
    design = Design(width, layers, heads, 4 * width, ALPHABET.size, token_factor=TOKEN_FACTOR)
    expected = expected_of(design, ALPHABET.size) | {
        "emb_layer_norm_before": False,
        "rope_theta": 10000,
        "mask_token_id": 32,
        "is_folding_model": False,
    }
    config = Config("esm", expected, _ABSENT)
    forms = (
        Form(r"(encoder\.)?(sentence_encoder\.)?layers\.", ALPHABET, renaming(*FAIR_NAMES), _UNUSED),
        Form(r"(esm\.)?encoder\.layer\.", ALPHABET, _HUGGING_FACE, _UNUSED, config),
    )
    return Published(design, forms)


def load(loading: Loading) -> LanguageModel:
    """The encoder of a recipe."""
    return LanguageModel(loading, published(*SIZES[loading.recipe.encoder]))
