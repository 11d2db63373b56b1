"""The audit log of a real `coca serve`, and keys that change while it runs."""

import json
import time
from pathlib import Path

import pytest

from coca.core.errors import ConfigError
from coca.predict.torch_predictor import TorchPredictor
from coca.server.audit import AuditLog
from server_process import data_uri, serving
from tiny_data import image_bytes


@pytest.mark.service
def test_changes_are_recorded_and_keys_change_without_a_restart(
    uri: str, predictor: TorchPredictor, tmp_path: Path
) -> None:
    keys, log = tmp_path / "keys.json", tmp_path / "audit.jsonl"
    of_anna, of_bert = ("key-of-" + name * 8 for name in ("anna", "bert"))
    keys.write_text(json.dumps({of_anna: {"name": "anna"}}))
    files = ("--keys", str(keys), "--audit-log", str(log))
    names = ("--collection", "others", "--model", predictor.source)
    with serving("--uri", uri, *names, *files, cache=tmp_path) as process:
        anna, bert = ({"Authorization": f"Bearer {key}"} for key in (of_anna, of_bert))
        # Nobody configured a proxy.
        anna["X-Forwarded-For"] = "203.0.113.9"
        body = {"image": data_uri(image_bytes(700))}
        added = process.request("POST", "/v1/items", body, anna)
        assert added.status == 201, added.body
        id = added.json()["id"]
        tags = {"ids": [id, "nosuch"], "add_tags": ["x"]}
        assert process.request("PATCH", "/v1/items", tags, anna).status == 200
        assert process.request("POST", "/v1/search", {"text": "a"}, bert).status == 401
        keys.write_text(json.dumps({of_bert: {"name": "bert"}}))
        while process.request("GET", "/v1/collections", None, bert).status != 200:
            time.sleep(0.2)
        assert process.request("GET", "/v1/collections", None, anna).status == 401
        assert process.request("DELETE", f"/v1/items/{id}", None, bert).status == 200
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    found = [(one["action"], one["key"], one["ids"], one["address"]) for one in lines]
    expected = (("add", "anna"), ("change", "anna"), ("delete", "bert"))
    assert found == [(action, key, [id], "127.0.0.1") for action, key in expected]
    assert [one["collection"] for one in lines] == ["others"] * 3
    assert of_anna not in log.read_text()


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        AuditLog(tmp_path / "nosuch" / "audit.jsonl")


def test_a_long_list_of_items_is_shortened(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.write("delete", ids=[str(number) for number in range(1_000)])
    log.close()
    line = json.loads((tmp_path / "audit.jsonl").read_text())
    assert (line["count"], len(line["ids"])) == (1_000, 100)


def test_without_a_file_the_line_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "coca.server.audit"):
        AuditLog(None).write("add", key="anna", ids=["1"])
    assert json.loads(caplog.messages[0])["ids"] == ["1"]
