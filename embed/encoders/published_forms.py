"""What published forms of several models have in common: names of tensors, an alphabet, a factor."""

from __future__ import annotations

from crossllm.embed.encoders.language_model import Alphabet

TOKEN_FACTOR = 1 - 0.15 * 0.8
"""Of the embedded tokens of ESM-2 and RiNALMo where nothing is masked: in training 15 % were, 80 % of it as <mask>."""
FAIR_NAMES = (
    (r"^(encoder\.)?(sentence_encoder\.)?", ""),
    (r"^embed_tokens\.", "tokens."),
    (r"\.self_attn\.q_proj\.", ".query."),
    (r"\.self_attn\.k_proj\.", ".key."),
    (r"\.self_attn\.v_proj\.", ".value."),
    (r"\.self_attn\.out_proj\.", ".out."),
    (r"\.self_attn_layer_norm\.", ".attention_norm."),
    (r"\.final_layer_norm\.", ".inner_norm."),
    (r"\.fc1\.", ".up."),
    (r"\.fc2\.", ".down."),
    (r"^emb_layer_norm_after\.", "final_norm."),
)
"""Names of fair-esm's models, which RNA-FM's are built on."""

MULTIMOLECULE = Alphabet("ACGUNRYSWKMBDHVI", 6, 28, 3, "<unk>", start=1, end=2, pad=0)
"""Of the weights that multimolecule converted; X, which it lacks, is <unk>."""
MULTIMOLECULE_NAMES = (
    (r"^(model|rinalmo|rnafm)\.", ""),
    (r"^embeddings\.word_embeddings\.", "tokens."),
    (r"^encoder\.layer\.(\d+)\.", r"layers.\1."),
    (r"\.attention\.self\.(query|key|value)\.", r".\1."),
    (r"\.attention\.output\.dense\.", ".out."),
    (r"\.attention\.layer_norm\.", ".attention_norm."),
    (r"\.output\.dense\.", ".down."),
    (r"^(layers\.\d+)\.layer_norm\.", r"\1.inner_norm."),
    (r"^encoder\.layer_norm\.", "final_norm."),
)
"""Names that multimolecule's conversions share."""
