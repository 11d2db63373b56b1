"""Files of the page: the bundle of its modules, and the messages of its languages."""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from coca.server.page_files import PAGE, PageFiles, bundle_scripts

SCRIPTS = {file.name: file.read_text() for file in (PAGE / "scripts").glob("*.js")}
TEXT = r'"(?:[^"\\\n]|\\.)*"'


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.mount("/", PageFiles())
    return TestClient(app)


def test_a_module_follows_those_that_it_imports_and_takes_their_exports(tmp_path: Path) -> None:
    (tmp_path / "main.js").write_text(
        'import {\n  one as first,\n} from "./a.js";\nimport { two } from "./b.js";\nfirst(two);\n'
    )
    (tmp_path / "a.js").write_text(
        'import { two } from "./b.js";\nexport const one = 1;\nexport async function $() {}\n'
    )
    (tmp_path / "b.js").write_text("export class two {}\n")
    assert bundle_scripts(tmp_path) == (
        "const in_b = await (async () => {\nclass two {}\nreturn { two };\n})();\n"
        "const in_a = await (async () => {\nconst { two } = in_b;\nconst one = 1;\n"
        "async function $() {}\nreturn { one, $ };\n})();\n"
        "const in_main = await (async () => {\nconst {\n  one: first,\n} = in_a;\n"
        "const { two } = in_b;\nfirst(two);\nreturn {  };\n})();\n"
    )


def test_every_module_is_in_the_page_once() -> None:
    text = bundle_scripts(PAGE / "scripts")
    for name in SCRIPTS.keys() - {"theme.js"}:
        assert text.count(f"const in_{name.removesuffix('.js')} = ") == 1, name
    assert not re.search(r"^(import|export) ", text, re.MULTILINE)


@pytest.mark.parametrize("path", ["/page.js", "/page.css"])
def test_a_bundle_is_compressed_and_compared_before_each_use(client: TestClient, path: str) -> None:
    plain = client.get(path, headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    with client.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as packed:
        assert packed.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(b"".join(packed.iter_raw())) == plain.content
    again = client.get(path, headers={"If-None-Match": plain.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert plain.headers["Cache-Control"] == "no-cache"


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
