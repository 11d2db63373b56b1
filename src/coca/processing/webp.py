"""WebP files of the plain kind, decoded without Pillow's detour through animations."""

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.io import ImageReadMode, decode_webp

from coca.processing.suppress_native_stderr import decoder_warnings_ignored

# "RIFF", 4 bytes of size, "WEBP", then the first chunk's name and size, a frame tag of 3 bytes, the
# start code, and both sides in 14 bits each (RFC 9649, section 2.5; RFC 6386, section 9.1).
_CHUNK = slice(8, 16)
_PLAIN = b"WEBPVP8 "
_START_CODE, _WIDTH, _HEIGHT = slice(23, 26), slice(26, 28), slice(28, 30)


def decode_plain_webp(content: bytes, *, max_pixels: int) -> UInt8[Tensor, "3 H W"] | None:
    """The same pixels as Pillow's in three quarters of the time, laid out as (H, W, 3).

    None for what Pillow has to look at: other formats, transparency, animations, metadata that may
    turn the image, too many pixels, damage.
    """
    if content[_CHUNK] != _PLAIN or content[_START_CODE] != b"\x9d\x01\x2a":
        return None
    width, height = (int.from_bytes(content[at], "little") & 0x3FFF for at in (_WIDTH, _HEIGHT))
    if width * height > max_pixels:
        return None
    try:
        # A copy, since torch warns of memory that it may not write to.
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        with decoder_warnings_ignored():
            return decode_webp(data, mode=ImageReadMode.RGB)
    except RuntimeError:
        return None
