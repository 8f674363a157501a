"""What `--cache s3://bucket/name` says, taken apart.  Nothing secret is ever part of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast
from urllib.parse import unquote, urlsplit

from crossllm.cache.errors import InputError
from crossllm.cache.files.paths import STORES, shown_url

Scheme = Literal["s3", "gs", "az"]
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_STEP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+@-]{0,199}")
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_SERVICE_ENDPOINT",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT", "AZURE_STORAGE_ACCOUNT_NAME"),
}
"""Variables that say which of several stores of a kind a bucket lies in, the first of them that is set."""


@dataclass(frozen=True)
class Address:
    """The folder of a cache in an object store."""

    scheme: Scheme
    bucket: str
    """For az:// the container."""
    prefix: str
    """Of the names of its objects, without a '/' at either end."""

    def __str__(self) -> str:
        """As it is typed."""
        return f"{self.scheme}://{self.bucket}/{self.prefix}"

    def endpoint(self, environment: Mapping[str, str] = os.environ) -> str | None:
        """Of the store, where the environment names one."""
        return next((found for name in _ENDPOINTS[self.scheme] if (found := environment.get(name))), None)


def parse_address(given: str) -> Address | Path:
    """The address of a cache in an object store, or the path that file:///PATH stands for.

    Raises:
        InputError: it is no such address, or holds what must not be in one; what may be secret is not repeated.
    """
    shown = shown_url(given)
    try:
        parts = urlsplit(given)
        has_login = "@" in parts.netloc
        if not given.isprintable():  # some of it urlsplit would drop
            raise ValueError
    except ValueError:
        raise InputError(f"--cache {shown}: cannot be read as an address; write s3://BUCKET/NAME") from None
    if has_login or parts.query or parts.fragment or "?" in given or "#" in given:
        raise InputError(
            f"--cache {shown}: holds a login, a query or a signature; write {parts.scheme}://BUCKET/NAME alone, "
            "credentials are taken from the environment (docs/cluster.md)"
        )
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise InputError(f"--cache {shown}: is on another machine; write file:///PATH, or the path itself")
        return Path(unquote(parts.path))
    if parts.scheme not in STORES:
        raise InputError(f"--cache {shown}: {parts.scheme} is not supported; write {', '.join(STORES)} or a path")
    prefix = parts.path.strip("/")
    if _BUCKET.fullmatch(parts.netloc) is None or not all(map(_STEP.fullmatch, prefix.split("/"))):
        raise InputError(
            f"--cache {shown}: is not {parts.scheme}://BUCKET/NAME, with a NAME of letters, digits and _ . = + @ - in "
            "one step or more"
        )
    return Address(cast(Scheme, parts.scheme), parts.netloc, prefix)
