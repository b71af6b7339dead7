"""How good a conversion is: figures and a picture, from the source song and what came out."""

from __future__ import annotations
