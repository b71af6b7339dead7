#!/usr/bin/env python3
"""Make the bundled Whisper encoder, svc/speech/assets/whisper_tiny_en_encoder.safetensors, from
OpenAI's tiny.en.

Usage: python scripts/make_whisper_tiny_asset.py TINY_EN.pt

TINY_EN.pt is OpenAI's tiny.en.pt, or its encoder alone in the same layout {dims, model_state_dict}.
The tensors are kept as float16 under OpenAI's names, the decoder is left out, and the checksum is
written into svc/pretrained.py. The same input gives the same bytes.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from svc.atomic import write_text  # noqa: E402
from svc.checkpoint import load_checkpoint, save_safetensors  # noqa: E402

TARGET = ROOT / "svc" / "speech" / "assets" / "whisper_tiny_en_encoder.safetensors"
# One entry only: the format does not fix the order of several, and the bytes must not vary.
METADATA = {"source": "encoder of OpenAI Whisper tiny.en, float16, MIT, see LICENSE-whisper.txt"}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    tensors = load_checkpoint(arguments[0])["model_state_dict"]
    encoder = {
        name: tensor.to(torch.float16)
        for name, tensor in sorted(tensors.items())
        if name.startswith("encoder.")
    }
    save_safetensors(encoder, TARGET, METADATA)
    digest = hashlib.sha256(TARGET.read_bytes()).hexdigest()
    table = ROOT / "svc" / "pretrained" / "table.py"
    text = table.read_text("utf-8")
    for name, value in (
        ("WHISPER_TINY_ASSET_SHA256", f'"{digest}"'),
        ("WHISPER_TINY_ASSET_SIZE", str(TARGET.stat().st_size)),
    ):
        text, count = re.subn(rf'^({name} = )("[^"]*"|\d+)', rf"\g<1>{value}", text, flags=re.M)
        if count != 1:
            print(f"no {name} in {table}", file=sys.stderr)
            return 1
    write_text(table, text)
    print(f"{TARGET.relative_to(ROOT)}: {TARGET.stat().st_size} bytes, sha256 {digest}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
