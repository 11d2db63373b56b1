"""Requests to the service, as tests write them."""

import base64
from typing import Any


def data_uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def ids(client: Any, body: dict[str, Any]) -> list[str]:
    """The ids that a search finds; the search must succeed."""
    answer = client.post("/v1/search", json=body)
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["hits"]]
