"""Files of the page: their addresses, and the messages of its languages."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from coca.server.page_files import PAGE, PageFiles

SCRIPTS = {file.name: file.read_text() for file in (PAGE / "scripts").glob("*.js")}
TEXT = r'"(?:[^"\\\n]|\\.)*"'


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.mount("/", PageFiles())
    return TestClient(app)


def test_the_document_names_all_files_and_is_compared_before_each_use(client: TestClient) -> None:
    document = client.get("/")
    assert document.headers["Cache-Control"] == "no-cache"
    again = client.get("/", headers={"If-None-Match": document.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    paths = re.findall(r'(?:src|href)="([^"#]+/(?:scripts|styles)/[^"]+)"', document.text)
    names = {path.partition("/")[2] for path in paths}
    files = [*PAGE.glob("scripts/*.js"), *PAGE.glob("styles/*.css")]
    assert names == {str(file.relative_to(PAGE)) for file in files}
    for path in paths:
        response = client.get(path)
        assert response.content == (PAGE / path.partition("/")[2]).read_bytes()
        assert "immutable" in response.headers["Cache-Control"]
    assert client.get("/scripts/main.js").headers["Cache-Control"] == "no-cache"
    # Of another version there is nothing, as a browser would keep it for good.
    assert client.get(f"/{'0' * 32}/scripts/main.js").status_code == 404


def test_an_unknown_path_is_404_for_every_method(client: TestClient) -> None:
    paths = ("/index.html", "/nothing.html")
    assert [client.post(path).status_code for path in paths] == [405, 404]
    assert [client.get(path).status_code for path in paths] == [200, 404]


def calls(script: str, name: str) -> Iterator[str]:
    """The arguments of all calls of a function, as text."""
    for found in re.finditer(rf"(?<![\w.$]){name}\(", script):
        depth, end = 1, found.end()
        for token in re.finditer(rf"{TEXT}|[()]", script[found.end() :]):
            depth += {"(": 1, ")": -1}.get(token.group(), 0)
            if depth == 0:
                end += token.start()
                break
        yield script[found.end() : end]


def messages() -> set[str]:
    """What the scripts and the document translate."""
    found: set[str] = set()
    for script in SCRIPTS.values():
        for argument in calls(script, "t"):
            # The values of a message are translated by calls of their own.
            first = argument.partition("{ ")[0] if argument.startswith('"') else argument
            found.update(
                json.loads(text) for text in re.findall(TEXT, re.sub(r"=== \S+", "", first))
            )
        for name in ("count", "counted"):
            for argument in calls(script, name):
                nouns = [json.loads(text) for text in re.findall(TEXT, argument)]
                found.update(form for noun in nouns for form in (noun, f"{noun}s"))
    return found


@pytest.mark.parametrize(
    "file", sorted((PAGE / "languages").glob("*.json")), ids=lambda it: it.stem
)
def test_a_language_has_each_message_and_no_other(file: Path) -> None:
    translated = json.loads(file.read_text(encoding="utf-8"))
    assert sorted(messages() - translated.keys()) == []
    source = " ".join([*SCRIPTS.values(), (PAGE / "index.html").read_text()])
    # A message of the document may be broken into lines.
    source = re.sub(r"\s+", " ", source)
    unused = {one for one in translated if one not in source and one not in messages()}
    assert unused == set()
    for message, translation in translated.items():
        values = re.compile(r"\{\w+\}")
        assert sorted(values.findall(message)) == sorted(values.findall(translation)), message
