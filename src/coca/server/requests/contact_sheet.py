"""Contact sheets: the images of hits in one image, numbered, for models that see."""

import io
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

COLUMNS = 5
SIDE_PX = 256
"""Length of the longer side of an image on the sheet, in pixels."""
_GAP_PX = 8
_LABEL_PX = 24


def draw_sheet(images: Sequence[UInt8[np.ndarray, "H W 3"] | None]) -> bytes:
    """Draw images into a grid, row by row, each with its number above it, as a JPEG.

    Args:
        images: Pixels, with sides of at most `SIDE_PX`; None leaves an empty cell.
    """
    columns = min(COLUMNS, max(1, len(images)))
    rows = max(1, math.ceil(len(images) / columns))
    width, height = SIDE_PX + _GAP_PX, SIDE_PX + _LABEL_PX + _GAP_PX
    sheet = Image.new("RGB", (columns * width + _GAP_PX, rows * height + _GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for number, pixels in enumerate(images):
        row, column = divmod(number, columns)
        left, top = _GAP_PX + column * width, _GAP_PX + row * height
        draw.text((left, top), str(number + 1), fill="black", font_size=_LABEL_PX - 4)
        if pixels is not None:
            x, y = (SIDE_PX - pixels.shape[1]) // 2, (SIDE_PX - pixels.shape[0]) // 2
            sheet.paste(Image.fromarray(pixels), (left + x, top + _LABEL_PX + y))
    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=85)
    return stream.getvalue()
