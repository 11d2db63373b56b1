"""Which files are taken for images and videos, by their names and by their content."""

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What is read, by Pillow's names. It knows many more, but each is a door for hostile files."""

IMAGE_FORMATS_SHOWN = "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"
"""The same for people."""

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv"}
    | {".ogv", ".wmv"}
)
