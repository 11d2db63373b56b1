"""Arguments of a wrong type raise an `ArgumentError` of one sentence.

In a process of its own: the tests' own checks of types would refuse it first.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

WRONG = {
    "SearchOptions(limit=2.5)": "limit must be a whole number of at least 1, got 2.5",
    "SearchOptions(limit=True)": "limit must be a whole number of at least 1, got true",
    "SearchOptions(offset=0.0)": "offset must be a whole number of at least 0, got 0.0",
    "SearchOptions(effort='x')": "effort must be a number above 0, got 'x'",
    "SearchOptions(params='x')": "params must be a mapping or null, got 'x'",
    "SearchOptions(on='x')": "on must be one of 'image', 'text', got 'x'",
    "SearchOptions(group_by='tag')": "group_by must be one of 'image', 'album', 'path', got 'tag'",
    "SearchOptions(min_score=5)": "min_score must be a number in [-1, 1] or null, got 5",
    "SearchOptions(min_scor=0.5)": "min_scor = 0.5 is unknown; did you mean 'min_score'?",
    "engine.search('x', hybrid='no')": "hybrid must be",
    "engine.search_batch(['x'], rerank=5)": "rerank = 5 is unknown; ",
    "Term(text='x', weight='0.5')": "weight must be a number in [-10, 10], got '0.5'",
    "Term(text=['x'])": 'text must be a text or null, got ["x"]',
    "check_terms('red car')": "the terms must be a list, got 'red car'",
    "SearchOptions(filter=3)": "filter must be a text, got 3",
    "collection.count(3)": "the filter must be a str such as 'width > 100', got 3",
    "collection.words(3, 1)": "text must be a str, got int; ",
    "engine.search('x', min_score=float('nan'))": "min_score must be a number in [-1, 1] or null",
    "engine.search('x', hybrid='rrf')": "hybrid must be true or false or null, got 'rrf'",
    "engine.search('x', rerank='5')": "rerank must be a whole number in [0, 16384], got '5'",
    "engine.search_batch('dog')": "texts must be a list with one item per query, got 'dog'",
    "recommend(engine, 'r0')": "positive must be a list of record ids and terms, got 'r0'",
    "recommend(engine, ['r0'], seen='r1')": "seen must be a list of record ids, got 'r1'",
    "recommend(engine, ['r0'], diversity='0.5')": "diversity must be a number in [0, 1], got '0.5'",
    "SearchEngine(collection, Embedder())": "SearchEngine takes a model of coca.load and a ",
    "SearchEngine(Embedder(), store)": "SearchEngine takes a model of coca.load and a collection",
    "collection.upsert([{'id': 'x'}])": "a collection stores `coca.search.records.Record`, got ",
    "open_store(Embedder())": "uri must be the path of a SQLite file or an address of Milvus, got",
    "engine.add(['a.jpg'], captions=['a', 'b'])": "1 images need as many captions and metadata, ",
    "engine.add(['a.jpg'], metadata={'a': 1})": "metadata must be a list of mappings, one per ",
    "query_vectors(['a', 'b'], 4)": "the vectors must be arrays of 4 numbers",
}
RIGHT = [
    "engine.search_batch(['dog'])",
    "SearchOptions(limit=np.int64(10), offset=np.int32(0), min_score=np.float32(0))",
    "engine.search(vector=eye[0], filter=where('width', '>', 100))",
    "Term(text='x', weight=np.float32(2))",
]
PROGRAM = """
import json, sys
import numpy as np
from coca.core.errors import ConfigError, SearchError
from coca.search.query.engine import SearchEngine
from coca.search.filters import where
from coca.search.mining.recommend import recommend
from coca.search.records import Record
from coca.search.query.query_terms import Term, check_terms, query_vectors
from coca.search.search_options import SearchOptions
from coca.search.stores import open_store
class Embedder:
    fingerprint, embed_dim = "one", 4

    def embed_texts(self, texts):
        return np.eye(4, dtype=np.float32)[: len(texts)]

    embed_images = embed_texts

eye = np.eye(4, dtype=np.float32)
store = open_store(sys.argv[2], create=True)
collection = store.create("pictures", embed_dim=4, fingerprint="one")
collection.upsert([Record(id="r0", path="/r0.jpg", caption="a car", vector=eye[0])])
engine = SearchEngine(Embedder(), collection)
errors = {}
for call in json.loads(sys.argv[1]):
    try:
        eval(call)
        errors[call] = ""
    except (SearchError, ConfigError) as error:
        errors[call] = str(error)
print(json.dumps(errors))
"""


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    calls, folder = [*WRONG, *RIGHT], tmp_path_factory.mktemp("wrong")
    run: Any = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(calls), str(folder / "a.db")],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(run.stdout)


@pytest.mark.parametrize("call", WRONG)
def test_a_value_of_the_wrong_type_is_reported_by_one_sentence(
    messages: dict[str, str], call: str
) -> None:
    assert messages[call].startswith(WRONG[call])


@pytest.mark.parametrize("call", RIGHT)
def test_numbers_of_numpy_are_numbers(messages: dict[str, str], call: str) -> None:
    assert messages[call] == ""
