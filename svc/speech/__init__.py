"""Content encoders: from a voice at 16 kHz to units at 50 frames per second."""

from __future__ import annotations

from svc.speech.base import ENCODER_NAMES, SpeechEncoder, build_speech_encoder

__all__ = ["ENCODER_NAMES", "SpeechEncoder", "build_speech_encoder"]
