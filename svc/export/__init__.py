"""Voices for other programs: ONNX graphs, each compared with its net before it is kept."""

from __future__ import annotations
