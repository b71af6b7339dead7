"""What a file is, what it fits, whether it is safe to load: without loading it."""

from __future__ import annotations

from svc.inspection.inspector import HASHED, inspect
from svc.inspection.report import Report
from svc.inspection.settings import load_settings

__all__ = ["HASHED", "Report", "inspect", "load_settings"]
