"""svc: singing voice conversion. A recorded song goes in, the same song sung by another voice comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svc.conversion import Converter, InferOptions

__version__ = "0.1.0"
__all__ = ["Converter", "InferOptions", "__version__"]


def __getattr__(name: str) -> Any:
    # torch takes a second to import: `svc --help` must not wait for it.
    if name in ("Converter", "InferOptions"):
        from svc import conversion

        return getattr(conversion, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
