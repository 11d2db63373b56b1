"""Fast decoding of simple WebP files (VP8 without extensions) with torchvision."""

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.io import ImageReadMode, decode_webp

from coca.runtime.image_file import decoder_warnings_ignored

# Layout: "RIFF", 4 bytes of size, "WEBP", name and size of the first chunk, a frame tag of 3 bytes,
# the start code, and both sides in 14 bits each (RFC 9649, section 2.5; RFC 6386, section 9.1).
_CHUNK = slice(8, 16)
_PLAIN = b"WEBPVP8 "
_START_CODE, _WIDTH, _HEIGHT = slice(23, 26), slice(26, 28), slice(28, 30)


def decode_plain_webp(content: bytes, *, max_pixels: int) -> UInt8[Tensor, "3 H W"] | None:
    """Decode a simple WebP file, equal to Pillow in 3/4 of the time; memory layout (H, W, 3).

    Returns None where Pillow is needed: other formats, transparency, animations, metadata that may
    rotate the image, too many pixels, or damage.
    """
    if content[_CHUNK] != _PLAIN or content[_START_CODE] != b"\x9d\x01\x2a":
        return None
    width, height = (int.from_bytes(content[at], "little") & 0x3FFF for at in (_WIDTH, _HEIGHT))
    if width * height > max_pixels:
        return None
    try:
        # A copy, since torch warns about read-only memory.
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        with decoder_warnings_ignored():
            return decode_webp(data, mode=ImageReadMode.RGB)
    except RuntimeError:
        return None
