"""The order of channels: that of WAV everywhere in the package, Vorbis' own inside Ogg.

libsndfile hands Vorbis and Opus through in their order, both ways (Vorbis I specification, section 4.3.9;
RFC 7845 section 5.1.1.2); all other formats have that of WAV and FLAC (RFC 9639 section 9.1.3).

    channels  WAV                               Vorbis
    3         L   R   C                         L   C   R
    5         L   R   C   BL  BR                L   C   R   BL  BR
    6         L   R   C   LFE BL  BR            L   C   R   BL  BR  LFE
    7         L   R   C   LFE BC  SL  SR        L   C   R   SL  SR  BC  LFE
    8         L   R   C   LFE BL  BR  SL  SR    L   C   R   SL  SR  BL  BR  LFE
"""

from __future__ import annotations

from typing import BinaryIO

_VORBIS_IN_WAV_ORDER: dict[int, tuple[int, ...]] = {
    3: (0, 2, 1),
    5: (0, 2, 1, 3, 4),
    6: (0, 2, 1, 5, 3, 4),
    7: (0, 2, 1, 6, 5, 3, 4),
    8: (0, 2, 1, 7, 5, 6, 3, 4),
}
_FIRST_PACKET_AT = 28  # bytes: the header of an Ogg page with one packet in it
_FAMILY_AT = _FIRST_PACKET_AT + 18  # bytes (RFC 7845 section 5.1)
_SPEAKERS = (0, 1)  # families whose channels are loudspeakers in Vorbis' order


def order_when_reading(
    container: str, codec: str, channels: int, stream: BinaryIO
) -> tuple[int, ...] | None:
    """Return which of the file's channels is the first, second, ... in the order of WAV.

    Args:
        container: libsndfile's name of the format.
        codec: libsndfile's name of the sample format.
        channels: C.
        stream: the open file.

    Returns:
        C indices; None where the order is that of WAV already.
    """
    if codec == "OPUS" and container == "OGG":
        stream.seek(0)
        head = stream.read(_FAMILY_AT + 1)
        is_opus = len(head) > _FAMILY_AT and head[_FIRST_PACKET_AT:][:8] == b"OpusHead"
        if is_opus and head[_FAMILY_AT] not in _SPEAKERS:
            return None
    return _order(container, codec, channels)


def order_when_writing(container: str, codec: str, channels: int) -> tuple[int, ...] | None:
    """Return which of WAV's channels is the first, second, ... of the file; else as `order_when_reading`."""
    order = _order(container, codec, channels)
    return None if order is None else tuple(order.index(channel) for channel in range(channels))


def _order(container: str, codec: str, channels: int) -> tuple[int, ...] | None:
    if container != "OGG" or codec not in ("VORBIS", "OPUS"):
        return None
    return _VORBIS_IN_WAV_ORDER.get(channels)
