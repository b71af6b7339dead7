"""A stand-in for ffmpeg and ffprobe that takes the arguments `svc.audio.ffmpeg` gives.

Its own container is one line of JSON (sr, channels, tags, arguments) behind b"FAKE ", and float samples.
As "ffmpeg" it decodes such a file to a WAV on stdout, or encodes samples from stdin to such a file; as
"ffprobe" it tells seconds, tags and facts of the container. What is not its container is refused in ffmpeg's words.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any


def value(flag: str) -> str:
    return sys.argv[sys.argv.index(flag) + 1]


def parts(name: str) -> tuple[dict[str, Any], bytes]:
    assert name.startswith("file:/"), name
    raw = Path(name[5:]).read_bytes()
    if not raw.startswith(b"FAKE "):
        sys.exit("it: Invalid data found when processing input")
    head, _, samples = raw[5:].partition(b"\n")
    return json.loads(head), samples


def check_safety() -> None:
    allowed = value("-protocol_whitelist").split(",")
    assert allowed == ["file"], allowed
    assert "mov" in value("-format_whitelist").split(",")
    assert not {"hls", "concat", "lavfi"} & set(value("-format_whitelist").split(","))


def decode() -> None:
    check_safety()
    head, samples = parts(value("-i"))
    assert sys.argv[-1] == "pipe:1"
    assert value("-c:a") == "pcm_f32le"
    claims = {**head, **head.get("claims", {})}
    sr, channels = claims["sr"], claims["channels"]
    out = sys.stdout.buffer
    facts = struct.pack("<HHIIHH", 3, channels, sr, 4 * sr * channels, 4 * channels, 32)
    out.write(b"RIFF\xff\xff\xff\xffWAVE" + b"LIST\x03\0\0\0abc\0")
    out.write(b"fmt " + struct.pack("<I", len(facts)) + facts + b"data\xff\xff\xff\xff")
    out.write(samples[: head.get("gives")])
    out.flush()
    sys.stderr.write(head.get("says", ""))
    sys.exit(head.get("code", 0))


def encode() -> None:
    tags = [sys.argv[at + 1] for at, word in enumerate(sys.argv) if word == "-metadata"]
    head = {
        "sr": int(value("-ar")),
        "channels": int(value("-ac")),
        "tags": dict(tag.split("=", 1) for tag in tags),
        "arguments": sys.argv[1:],
    }
    assert sys.argv[-1].startswith("file:/")
    raw = sys.stdin.buffer.read()
    Path(sys.argv[-1][5:]).write_bytes(b"FAKE " + json.dumps(head).encode() + b"\n" + raw)


def probe() -> None:
    check_safety()
    head, samples = parts(sys.argv[-1])
    seconds = len(samples) / 4 / head["channels"] / head["sr"]
    stream = {"duration": str(seconds)} if head.get("timed", True) else {}
    container = {
        "format_name": "mov,mp4,m4a,3gp,3g2,mj2",
        "nb_streams": 1,
        **head.get("container", {}),
    }
    said = {"streams": [stream], "format": {"tags": head.get("tags", {}), **container}}
    sys.stdout.write(json.dumps(said))
    sys.stderr.write(head.get("warns", ""))


if Path(sys.argv[0]).name == "ffprobe":
    probe()
elif value("-i") == "pipe:0":
    encode()
else:
    decode()
