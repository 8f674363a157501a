"""`rnabert`: RNABERT (Akiyama & Sakakibara, NAR Genom Bioinform 2022;4:lqac012), a BERT of six layers over nucleotides.

Tokens are the nucleotides alone: no CLS, no EOS.  Positions are learned and end at 440.  A nucleotide attends to its
own sequence (or window) and to nothing else.  The published code pads every sequence to 440 and attends to the padding;
`attention=padded-440` does that, and gives its numbers.
"""

from __future__ import annotations

from crossllm.embed.encoder import Loading
from crossllm.embed.encoders.language_model import Alphabet, Form, LanguageModel, Published, renaming
from crossllm.embed.engine.transformer import Design
from crossllm.embed.weights.hf_config import Config, expected_of

LIMIT = 440
ALPHABET = Alphabet("AUGC", 2, 6, 1, "<mask>", pad=0)
_NAMES = renaming(
    (r"^(module\.|model\.)?(bert\.)?", ""),
    (r"\.LayerNorm\.gamma$", ".layer_norm.weight"),
    (r"\.LayerNorm\.beta$", ".layer_norm.bias"),
    (r"^embeddings\.word_embeddings\.", "tokens."),
    (r"^embeddings\.position_embeddings\.", "positions."),
    (r"^embeddings\.token_type_embeddings\.", "kinds."),
    (r"^embeddings\.layer_norm\.", "embed_norm."),
    (r"^encoder\.layer\.(\d+)\.", r"layers.\1."),
    (r"\.attention\.(self|selfattn)\.(query|key|value)\.", r".\2."),
    (r"\.attention\.output\.dense\.", ".out."),
    (r"\.attention\.output\.layer_norm\.", ".attention_norm."),
    (r"\.intermediate\.dense\.", ".up."),
    (r"\.output\.dense\.", ".down."),
    (r"\.output\.layer_norm\.", ".inner_norm."),
)


def published(width: int = 120, layers: int = 6, heads: int = 12, inner: int = 40) -> Published:
    """The model: the authors' `.pth`, or safetensors in the same names."""
    design = Design(
        width,
        layers,
        heads,
        inner,
        ALPHABET.size,
        LIMIT,
        kinds=2,
        order="post",
        embed_norm=True,
        final_norm=False,
        eps=1e-12,
    )
    config = Config("rnabert", expected_of(design, ALPHABET.size), {"vocab_size": 28})
    return Published(design, (Form("", ALPHABET, _NAMES, r"pooler\..*|cls\..*", config),))


def load(loading: Loading) -> LanguageModel:
    """The encoder of a recipe."""
    padded = loading.recipe.options.get("attention") == "padded-440"
    return LanguageModel(loading, published(), LIMIT if padded else None)
