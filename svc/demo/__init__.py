"""A synthetic singer with exact F0 truth, and the bundled demonstration data made with it."""

from __future__ import annotations
