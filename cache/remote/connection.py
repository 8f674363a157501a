"""obstore, and a bucket opened by it; login, endpoint and region are the environment's."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from crossllm.cache.errors import InputError
from crossllm.cache.remote.address import Address

if TYPE_CHECKING:
    from obstore.store import ObjectStore

RETRIES, RETRY_SECONDS = 10, 120
"""Of obstore, for one request."""
FIRST_WAIT, LAST_WAIT = 0.05, 10.0
"""Seconds before it is asked for again: the first time, then twice as long each time, and at most."""
_ENDPOINT = re.compile(
    r"https?://[A-Za-z0-9._-]+(:[0-9]{1,5})?(/[A-Za-z0-9._/-]*)?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?/?"
)


def obstore_module() -> Any:
    """Of the extra `s3`; loaded when a cache in an object store is opened.

    Raises:
        InputError: it is not installed.
    """
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError:
        raise InputError("caches in object stores need obstore; run `pip install 'crossllm-mamba[s3]'`") from None
    return obstore


def open_store(address: Address, retries: int) -> ObjectStore:
    """The store of a bucket; login, endpoint and region are the environment's, as the SDKs take them."""
    store = obstore_module().store
    for name, value in os.environ.items():
        if name.startswith(("AWS_", "GOOGLE_", "AZURE_")) and not value.isprintable():
            raise InputError(f"{name}: holds a character that no setting of a store has; correct the variable")
    endpoint = address.endpoint()
    if endpoint is not None and "://" in endpoint and not _ENDPOINT.fullmatch(endpoint):
        raise InputError(f"{address}: the endpoint that the environment names is not http(s)://HOST[:PORT] alone")
    plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true") or (endpoint or "").startswith("http://")
    backoff = {"init_backoff": timedelta(seconds=FIRST_WAIT), "max_backoff": timedelta(seconds=LAST_WAIT), "base": 2}
    common: dict[str, Any] = {
        "client_options": {
            "allow_http": plain,
            "connect_timeout": timedelta(seconds=10),
            "timeout": timedelta(seconds=60),
        },
        "retry_config": {"backoff": backoff, "max_retries": retries, "retry_timeout": timedelta(seconds=RETRY_SECONDS)},
    }
    try:
        if address.scheme == "gs":
            found = store.GCSStore(address.bucket, **common)
        elif address.scheme == "az":
            found = store.AzureStore(address.bucket, **common)
        else:
            config = {} if endpoint is None else {"endpoint": endpoint}
            found = store.S3Store(address.bucket, config=config, **common)
    except Exception as error:  # its text may hold what the environment holds
        kind = type(error).__name__
        raise InputError(f"{address}: the environment's settings of the store are refused ({kind})") from None
    opened: ObjectStore = found
    return opened
