"""Conversion: songs in, the same songs sung by another voice out."""

from __future__ import annotations

from svc.conversion.converter import Converter
from svc.conversion.files import convert_files
from svc.conversion.jobs import Job, Outcome, plan_jobs
from svc.conversion.options import InferOptions

__all__ = ["Converter", "InferOptions", "Job", "Outcome", "convert_files", "plan_jobs"]
