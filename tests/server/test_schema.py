"""The OpenAPI document describes what the routes accept, neither less nor more."""

from itertools import product
from typing import Any

import pytest
from fastapi.testclient import TestClient

from server_process import data_uri
from tiny_data import image_bytes

FIELDS = ("caption", "caption_source", "width", "hidden", "tags", "metadata.a\nb", "origin")
VALUES: tuple[Any, ...] = (True, "a", 1, 2.0, 2.5, 1e300, [], [1], ["a"])
IMAGE = {"image": data_uri(image_bytes(0))}
BODIES: dict[str, list[Any]] = {
    "POST /v1/facets": [
        *({"limit": value} for value in (2, 2.0, 2.5, True, "2", None)),
        *({"fields": [value]} for value in ("tags", "origin", "metadata.a\nb")),
        *(
            {"where": [{"field": field, "operator": operator, "value": value}]}
            for operator in ("==", "<", "in", "has all", "has any")
            for field, value in product(FIELDS, VALUES)
        ),
    ],
    "PATCH /v1/items": [
        *({"ids": ["0"], "undo": [value]} for value in ("time", "path", "metadata.a\nb")),
        *({"ids": ["0"], "time": value} for value in (-5, 5.0, 2**64)),
        *({"ids": ["0"], "metadata": {"a": [value]}} for value in (-5, 1e300, {"b": 2**63})),
    ],
    "PUT /v1/searches/{name}": [
        *({"text": value} for value in ("a", " \x1c\x85", None)),
        *({"positive": value} for value in ([], [{"text": "a"}], [{"id": "0"}], [IMAGE])),
    ],
    "POST /v1/classify": [
        {**IMAGE, "labels": [label], "templates": [template]}
        for label, template in product(("a", " "), ("{}", "a"))
    ],
}


@pytest.mark.parametrize("route", BODIES)
def test_a_body_is_accepted_if_the_schema_has_it(client: TestClient, route: str) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="the extra mcp is not installed")
    document, (method, path) = client.get("/openapi.json").json(), route.split()
    schema = document["paths"][path][method.lower()]["requestBody"]["content"]["application/json"]
    validator = jsonschema.Draft202012Validator({**document, **schema["schema"]})
    for body in BODIES[route]:
        status = client.request(method, path.format(name="a"), json=body).status_code
        assert (status < 400) == validator.is_valid(body), (body, status)
    client.delete("/v1/searches/a")
