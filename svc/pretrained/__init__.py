"""Weight files of other projects: what they are, where they lie, whether they are whole."""

from __future__ import annotations

from svc.pretrained.files import (
    PRETRAIN_DIR,
    describe_missing,
    find_pretrained,
    torchfcpe_asset,
    verify,
    whisper_tiny_asset,
)
from svc.pretrained.table import (
    PRETRAINED,
    WHISPER_TINY_ASSET,
    WHISPER_TINY_ASSET_SHA256,
    PretrainedFile,
    Published,
    file_of,
    size_text,
)

__all__ = [
    "PRETRAINED",
    "PRETRAIN_DIR",
    "WHISPER_TINY_ASSET",
    "WHISPER_TINY_ASSET_SHA256",
    "PretrainedFile",
    "Published",
    "describe_missing",
    "file_of",
    "find_pretrained",
    "size_text",
    "torchfcpe_asset",
    "verify",
    "whisper_tiny_asset",
]
