"""Texts of the formats in the schema of the service, for schemathesis."""

import schemathesis
from hypothesis import strategies

from server_process import data_uri
from tiny_data import image_bytes

FORMATS = {
    "image-data-uri": [data_uri(image_bytes(number)) for number in range(3)],
    "filter": ["", "width > 100", 'metadata["year"] in [1, 2]'],
    # Any two of these overlap, so that none ends before another one begins.
    "period": ["", "2021", "May 2021", "2021-05-04"],
    "place": ["", "38.72,-9.14"],
    # With more tokens than the context of the model it is an error.
    "prompt": ["", "a red"],
    # Without a place, a distance is an error.
    "distance": [""],
}

for name, texts in FORMATS.items():
    schemathesis.openapi.format(name, strategies.sampled_from(texts))
