"""RNA-FM (Chen et al., arXiv 2204.00300): ESM-1b's design over nucleotides, with learned positions to 1,022."""

from __future__ import annotations

from crossllm.embed.encoder import Loading
from crossllm.embed.encoders.language_model import Alphabet, Form, LanguageModel, Published, renaming
from crossllm.embed.encoders.published_forms import FAIR_NAMES, MULTIMOLECULE, MULTIMOLECULE_NAMES
from crossllm.embed.engine.transformer import Design
from crossllm.embed.weights.hf_config import Config, expected_of

LIMIT = 1022
ALPHABET = Alphabet("ACGURYKMSWBDHVN-", 4, 25, 3, "<unk>", start=0, end=2, pad=1)

_AUTHORS = renaming(
    *FAIR_NAMES,
    (r"^embed_positions\.", "positions."),
    (r"^emb_layer_norm_before\.", "embed_norm."),
)
_CONVERTED = renaming(
    *MULTIMOLECULE_NAMES,
    (r"^embeddings\.position_embeddings\.", "positions."),
    (r"^embeddings\.layer_norm\.", "embed_norm."),
    (r"\.intermediate\.dense\.", ".up."),
)
_UNUSED = r"lm_head\..*|contact_head\..*|ss_head\..*|pooler\..*|version|embeddings\.position_ids"


def published(width: int = 640, layers: int = 12, heads: int = 20, inner: int = 5120) -> Published:
    """The model: the authors' `.pth`, or multimolecule's safetensors."""
    design = Design(
        width, layers, heads, inner, ALPHABET.size, positions=LIMIT + 4, first_position=2, embed_norm=True
    )  # fmt: skip
    # Earlier releases of multimolecule call the norm of the embedded tokens emb_layer_norm_before.
    norm = {"embed_norm": True, "emb_layer_norm_before": True}
    expected = expected_of(design, MULTIMOLECULE.size) | norm | {"codon": False}
    config = Config("rnafm", expected, {})  # what multimolecule's `RnaFmConfig` leaves out is RNA-FM's own
    forms = (
        Form(r"(encoder\.)?(sentence_encoder\.)?layers\.", ALPHABET, _AUTHORS, _UNUSED),
        Form(r"((model|rnafm)\.)?encoder\.layer\.", MULTIMOLECULE, _CONVERTED, _UNUSED, config),
    )
    return Published(design, forms)


def load(loading: Loading) -> LanguageModel:
    """The encoder of a recipe."""
    return LanguageModel(loading, published())
