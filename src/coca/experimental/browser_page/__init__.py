"""A static page that searches a collection in the browser, without a server.

`coca export MODEL OUT --format browser` writes the text encoder as ONNX, the vectors, thumbnails
and the page; any web server of static files can host the folder. See docs/experimental.md.
"""
