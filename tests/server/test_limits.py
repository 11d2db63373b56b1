import asyncio
import threading
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest
from fastapi import APIRouter, FastAPI, HTTPException
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from pydantic import field_validator
from starlette.types import Message, Receive, Scope, Send

from coca.server.app import create_app
from coca.server.bodies import Body
from coca.server.middleware import BodyLimit
from coca.server.routes.tenants import CurrentTenant, KeyedRoute
from coca.server.service import Service
from coca.server.settings import ServerSettings


def test_a_body_above_the_limit_is_413(service: Service) -> None:
    with TestClient(
        create_app(service, ServerSettings(max_body_mb=0.001)), "http://localhost"
    ) as client:
        long = b'{"text": "' + b"x" * 2_000 + b'"}'
        headers = {"Content-Type": "application/json"}
        assert client.post("/v1/search", content=long, headers=headers).status_code == 413
        parts = (long[start : start + 100] for start in range(0, len(long), 100))
        assert client.post("/v1/search", content=parts, headers=headers).status_code == 413


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/facets"),
        ("POST", "/v1/duplicates"),
        ("PATCH", "/v1/items/x"),
        ("PATCH", "/v1/items"),
        ("POST", "/mcp"),
    ],
)
def test_a_body_without_images_may_have_a_megabyte(
    client: TestClient, method: str, path: str
) -> None:
    if path == "/mcp":
        pytest.importorskip("mcp", reason="the extra mcp is not installed")
    body = b'{"collection": "' + b"x" * 1_000_000 + b'"}'
    headers = {"Content-Type": "application/json"}
    assert client.request(method, path, content=body, headers=headers).status_code == 413


@pytest.mark.parametrize(
    ("path", "start", "value"),
    [
        ("/v1/search", b"[", b"[],"),
        ("/v1/search", b'{"where": [', b"{},"),
        ("/v1/search", b'{"where": [', b"0,"),
        ("/v1/search", b'{"where": [', b"["),
        ("/v1/search", b'{"where": [', b'"",'),
        ("/v1/items", b'{"metadata": [', b"{},"),
        ("/v1/embeddings", b'{"input": [', b'"",'),
    ],
)
def test_a_body_of_very_many_values_is_not_parsed(
    client: TestClient, path: str, start: bytes, value: bytes
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.post(path, content=start + value * 600_000, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("path", "body", "most"),
    [
        ("search", {"where": [{"field": "album", "value": [{}] * 900}]}, 8),
        ("search", {"where": [{"x": 0}] * 64}, 1),
        ("search", {"positive": [0] * 64}, 1),
        ("recommend", {"positive": [{"text": "a"}], "seen": [0] * 9_000}, 1),
        ("classify", {"image": "AAAA", "labels": [""] * 900}, 1),
        ("embeddings", {"input": [["a"] * 240] * 2_000}, 1),
        ("embeddings", {"input": ["a", *([0] * 2_000)]}, 2),
    ],
)
def test_a_body_is_rejected_at_its_first_fault(
    client: TestClient, path: str, body: dict[str, Any], most: int
) -> None:
    # A fault of a union is one of each of its types.
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].count("body.") <= most, answer.text


def lists_of(schema: Any) -> Iterator[dict[str, Any]]:
    """All schemas of lists inside a schema of pydantic."""
    values = schema.values() if isinstance(schema, dict) else schema
    if isinstance(schema, dict) and schema.get("type") == "list":
        yield schema
    for value in values if isinstance(schema, dict | list | tuple) else ():
        yield from lists_of(value)


def test_all_lists_of_bodies_end_at_the_first_fault(client: TestClient) -> None:
    bodies = [
        body
        for route in client.app.state.routes  # type: ignore[attr-defined]
        if isinstance(route, APIRoute) and (body := get_type_hints(route.endpoint).get("body"))
    ]
    assert len(bodies) > 10
    for body in bodies:
        for found in lists_of(body.__pydantic_core_schema__):
            assert found.get("fail_fast"), (body, found["items_schema"])


def test_a_large_body_is_validated_off_the_event_loop(service: Service) -> None:
    places = []

    class Noted(Body):
        texts: list[str]

        @field_validator("texts")
        @classmethod
        def _note(cls, texts: list[str]) -> list[str]:
            places.append(threading.get_ident())
            return texts

    router, app = APIRouter(route_class=KeyedRoute), FastAPI()

    @router.post("/")
    async def count(body: Noted, tenant: CurrentTenant) -> list[int]:
        return [len(body.texts), threading.get_ident()]

    app.include_router(router)
    app.state.service = service
    with TestClient(app, "http://localhost") as client:
        for size in (1, 10_000):
            found, loop = client.post("/", json={"texts": ["text"] * size}).json()
            assert found == size
            places.append(loop)
    small, loop, large, same = places
    assert (small, same) == (loop, loop)
    assert large != loop


def test_a_body_of_very_many_keys_is_not_parsed(client: TestClient) -> None:
    body = {f"key{number}": 0 for number in range(60_000)}
    answer = client.post("/v1/search", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_a_message_of_an_agent_has_few_values(client: TestClient) -> None:
    pytest.importorskip("mcp", reason="the extra mcp is not installed")
    headers = {"Accept": "application/json, text/event-stream"}
    answer = client.post("/mcp", json=[{}] * 20_000, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_metadata_that_no_store_takes_is_rejected_before_it_is_written_as_json(
    client: TestClient,
) -> None:
    for metadata in ({"a": [0] * 70_000}, {"a": "x" * 70_000}, {"x" * 70_000: 0}):
        answer = client.patch("/v1/items", json={"ids": ["x"], "metadata": metadata})
        assert answer.status_code == 422
        assert "metadata must have at most 65,535 bytes" in answer.json()["error"]["message"]


def test_a_long_text_with_commas_is_embedded(client: TestClient) -> None:
    texts = [{"text": "a red car, a cat, a dog"}] * 2_000
    answer = client.post("/v1/embeddings", json={"input": texts})
    assert len(answer.json()["data"]) == 2_000


def test_an_error_names_ten_faults_at_most(client: TestClient) -> None:
    fields = {f"field{number}": 0 for number in range(30_000)}
    answer = client.post("/v1/search", json=fields)
    message = answer.json()["error"]["message"]
    assert answer.status_code == 422
    assert (message.count("'field"), message.count("and 29,990 others")) == (10, 1)
    message = client.post("/v1/search", json={"x" * 100_000: 0}).json()["error"]["message"]
    assert len(message) < 1_000


def test_large_bodies_share_a_limit_and_small_ones_are_accepted() -> None:
    go_on = asyncio.Event()
    statuses: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        if scope["path"] == "/wait":
            await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def request(limits: BodyLimit, size: int, path: str = "/") -> None:
        async def receive() -> Message:
            return {"type": "http.request", "body": bytes(size), "more_body": False}

        async def send(message: Message) -> None:
            statuses.append(message["status"])

        scope = {"type": "http", "method": "POST", "path": path, "headers": []}
        await limits(scope, receive, send)

    async def run() -> None:
        limits = BodyLimit(app, max_bytes=10**6, max_total_bytes=10**6, timeout_s=60.0)
        first = asyncio.create_task(request(limits, 800_000, "/wait"))
        await asyncio.sleep(0)
        await request(limits, 1_000)
        with pytest.raises(HTTPException) as caught:
            await request(limits, 800_000)
        assert (caught.value.status_code, caught.value.headers) == (503, {"Retry-After": "1"})
        go_on.set()
        await first
        await request(limits, 800_000)

    asyncio.run(run())
    assert statuses == [200, 200, 200]


@pytest.mark.parametrize(
    "hosts",
    [
        *("evil.example", "192.168.1.5:8000", "localhost.evil.example", "localhost evil.example"),
        *("localhost:80@evil.example", "[::1]@evil.example", "localhost:80/", "[::1"),
    ],
)
def test_without_keys_another_host_is_421(client: TestClient, hosts: str) -> None:
    headers = [("Host", host) for host in hosts.split()]
    assert client.get("/healthz", headers=headers).status_code == 421


CROSS_SITE = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:3000"},
    {"Origin": "http://[localhost"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"},
]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/items"),
        ("PATCH", "/v1/items/x"),
        ("DELETE", "/v1/items/x"),
        ("POST", "/v1/search"),
        ("POST", "/mcp"),
    ],
)
def test_a_page_of_another_site_writes_nothing(client: TestClient, method: str, path: str) -> None:
    if path == "/mcp":
        pytest.importorskip("mcp", reason="the extra mcp is not installed")
    for headers in CROSS_SITE:
        # As fetch sends a Blob: without a media type, so that the browser does not ask before.
        answer = client.request(method, path, content=b'{"ids": ["x"]}', headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_origin"), (
            headers
        )


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://localhost"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://photos.example"},
        {"Sec-Fetch-Site": "none"},
    ],
    ids=["a program", "an old browser", "behind a proxy", "the user"],
)
def test_the_page_of_the_service_and_programs_may_write(
    client: TestClient, headers: dict[str, str]
) -> None:
    answer = client.patch("/v1/items", json={"ids": ["x"]}, headers=headers)
    assert answer.json() == {"ids": [], "missing": ["x"]}


def test_links_from_other_sites_are_answered(client: TestClient) -> None:
    for headers in CROSS_SITE:
        assert client.get("/v1/collections", headers=headers).status_code == 200, headers


def test_a_body_without_a_media_type_is_not_read_as_json(client: TestClient) -> None:
    answer = client.patch("/v1/items", content=b'{"ids": ["x"]}')
    assert answer.status_code == 422


def test_the_page_may_load_nothing_from_elsewhere(client: TestClient) -> None:
    policy = client.get("/healthz").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/search", "POST"),
        ("PUT", "/v1/search", "POST"),
        ("PUT", "/v1/items/x/original", "GET"),
        ("TRACE", "/v1/items/x/thumbnail", "GET"),
        ("POST", "/v1/items/x", "DELETE, GET, PATCH"),
        ("PUT", "/v1/items", "PATCH, POST"),
        ("POST", "/index.html", "GET, HEAD"),
    ],
)
def test_another_method_is_405_with_the_allowed_ones(
    client: TestClient, method: str, path: str, allowed: str
) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_agents_have_no_sessions_and_no_streams(client: TestClient, method: str) -> None:
    pytest.importorskip("mcp", reason="the extra mcp is not installed")
    answer = client.request(method, "/mcp", headers={"Accept": "text/event-stream"})
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_an_unknown_path_is_404_with_every_method(client: TestClient, method: str) -> None:
    for path in ("/nosuch", "/v1/nosuch", "/v1/chat/completions"):
        assert client.request(method, path).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "part"),
    [
        ("search", {"query": "a cat", "top_k": 3}, "'query', 'top_k'; did you mean text, limit?"),
        ("search", {"zzzzzz": 1}, "; known: image, id, collection"),
        ("search", {"where": [{"field": "album", "op": "==", "value": "x"}]}, "operator?"),
    ],
)
def test_an_unknown_field_names_what_it_may_mean(
    client: TestClient, path: str, body: dict[str, object], part: str
) -> None:
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code == 422
    assert part in answer.json()["error"]["message"]


def test_json_that_is_sent_as_a_form_is_answered_with_the_header(client: TestClient) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    refused = client.post("/v1/search", content='{"text": "a car"}', headers=form)
    assert refused.status_code == 422
    assert "the header Content-Type: application/json" in refused.json()["error"]["message"]
