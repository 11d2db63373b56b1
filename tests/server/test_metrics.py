import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from coca.server.app import create_app
from coca.server.service import Service


@pytest.fixture
def fresh(service: Service) -> TestClient:
    """An application without earlier requests."""
    return TestClient(create_app(service, service.settings), base_url="http://localhost")


def counts(client: TestClient) -> dict[tuple[str, str, str], float]:
    """The number of requests by method, route and status."""
    return {
        (labels["method"], labels["route"], labels["status"]): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == "coca_requests_total"
        for labels in [sample.labels]
    }


def test_requests_are_counted_by_route_and_status(fresh: TestClient) -> None:
    fresh.post("/v1/search", json={"text": "a cat"})
    fresh.post("/v1/search", json={"text": 3})
    for id in ("nosuch", "another"):
        fresh.get(f"/v1/items/{id}")
    assert counts(fresh) == {
        ("POST", "/v1/search", "200"): 1,
        ("POST", "/v1/search", "422"): 1,
        ("GET", "/v1/items/{id:item}", "404"): 2,
    }
    assert counts(fresh)["GET", "/metrics", "200"] == 1
    labels = 'method="POST",route="/v1/search",status="200"'
    assert f"coca_request_seconds_count{{{labels}}} 1.0" in fresh.get("/metrics").text


def test_a_client_invents_no_labels(fresh: TestClient) -> None:
    fresh.get("/nosuch/1")
    fresh.get("/nosuch/2")
    fresh.request("INVENTED", "/v1/search")
    fresh.get("/healthz", headers={"Host": "evil.example"})
    found = counts(fresh)
    assert sum(found.values()) == 4
    assert {method for method, _, _ in found} <= {"other"}
    assert {route for _, route, _ in found} <= {"other", "/v1/search"}


def test_a_failure_is_counted_as_500(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("coca.server.routes.search.run_search", fail)
    app = create_app(service, service.settings)
    client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
    answer = client.post("/v1/search", json={})
    assert (answer.status_code, answer.headers["x-content-type-options"]) == (500, "nosniff")
    assert counts(client) == {("POST", "/v1/search", "500"): 1}
