"""Images of requests and items: data URIs, decoding, thumbnails and uploads."""
