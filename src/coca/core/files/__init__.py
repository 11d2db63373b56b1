"""Files: atomic writes, search of folders, safe opening, and formats of images and videos."""
