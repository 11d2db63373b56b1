"""Supported image and video formats, by file suffix and by content."""

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Supported formats by their Pillow names. Others are disabled to reduce the attack surface."""

IMAGE_FORMATS_SHOWN = "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"
"""The supported formats in messages."""

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv"}
    | {".ogv", ".wmv"}
)
