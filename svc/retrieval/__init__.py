"""Retrieval: part of a song's units is replaced by units of the target voice, frame by frame (spec_cluster_index).

Imports no torch until a file is loaded.
"""

from __future__ import annotations

from svc.retrieval.base import UnitRetriever, load_retriever

__all__ = ["UnitRetriever", "load_retriever"]
