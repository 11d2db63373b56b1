"""`Dockerfile` and `compose.yaml`: their commands exist, and every step runs in a chroot.

No test here builds an image. `make test-image` runs the steps of the Dockerfile, in their order, in
clean installations of Debian, and then the service as its user. It needs root and debootstrap.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from coca.cli.app import app
from free_ports import free_port
from tiny_data import image_bytes

ROOT = Path(__file__).parents[2]
DEBIAN = "debian:trixie-slim"
KEY = "0123456789abcdef0123456789abcdef"


def steps() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, with continued lines joined and without comments."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    parted = (line.partition(" ") for line in lines if line and not line.startswith("#"))
    return [(name, text.strip()) for name, _, text in parted]


def last(name: str) -> str:
    return dict(steps())[name]


def words_of(name: str) -> list[str]:
    """The words of an instruction in its JSON form."""
    return json.loads(last(name)[last(name).index("[") :])


def test_the_image_serves_as_a_plain_user_and_compose_starts_it_with_a_key() -> None:
    command: Any = typer.main.get_command(app)
    serve = command.get_command(None, words_of("CMD")[0])
    options = {option for parameter in serve.params for option in parameter.opts}
    assert words_of("ENTRYPOINT") == ["coca"]
    assert {word for word in words_of("CMD") if word.startswith("--")} <= options
    assert int(last("USER")) > 0
    services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert services["coca"]["environment"]["COCA_API_KEYS"].startswith("${COCA_API_KEYS:?")
    assert services["coca"]["volumes"][0] == f"data:{last('VOLUME')}"
    assert services["milvus"]["profiles"] == ["milvus"]


class Chroot:
    """A clean Debian in a folder, which runs commands as a step of a Dockerfile does."""

    def __init__(self, root: Path, base: Path) -> None:
        subprocess.run(["cp", "-a", str(base), str(root)], check=True)
        self.root, self.user = root, "0"
        self.environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        # How this machine reaches its registries.
        shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")
        for name, value in os.environ.items():
            if name.startswith("PIP_") or name.lower().endswith("_proxy"):
                self.environment[name] = value
        if bundle := os.environ.get("SSL_CERT_FILE"):
            shutil.copy(bundle, root / "bundle.crt")
            self.environment |= dict.fromkeys(("SSL_CERT_FILE", "PIP_CERT"), "/bundle.crt")

    def command(self, words: list[str], **more: str) -> list[str]:
        given = [f"{name}={value}" for name, value in {**self.environment, **more}.items()]
        user = f"--userspec={self.user}:{self.user}"
        return ["chroot", user, str(self.root), "env", "-i", *given, *words]

    def run(self, words: list[str]) -> str:
        done = subprocess.run(self.command(words), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chroot]:
    """The root of the last stage, after all steps."""
    home = tmp_path_factory.mktemp("image")
    base, suite = home / "base", DEBIAN.partition(":")[2].removesuffix("-slim")
    made = ["debootstrap", "--variant=minbase", suite, str(base)]
    subprocess.run(made, check=True, capture_output=True)
    stages: list[Chroot] = []
    with ExitStack() as mounted:
        for name, text in steps():
            if name == "FROM":
                assert text.split()[0] == DEBIAN
                stages.append(Chroot(home / str(len(stages)), base))
                # ONNX Runtime reads weights outside of its graphs by /proc, as containers have it.
                proc = str(stages[-1].root / "proc")
                subprocess.run(["mount", "-t", "proc", "proc", proc], check=True)
                mounted.callback(subprocess.run, ["umount", proc], check=True)
            else:
                take(name, text, stages)
        yield stages[-1]
    shutil.rmtree(home)


def take(name: str, text: str, stages: list[Chroot]) -> None:
    """Run a step in the last stage."""
    stage, words = stages[-1], text.split()
    if name == "RUN":
        stage.run(["/bin/sh", "-c", text])
    elif name == "COPY" and words[0] == "--from=build":
        source, target = (one.root / words[2].lstrip("/") for one in stages)
        shutil.copytree(source, target, symlinks=True)
    elif name == "COPY":
        assert words[0] == "."
        copy_context(stage.root / words[1].lstrip("/"))
    elif name == "ENV":
        stage.environment |= dict(word.split("=", 1) for word in words)
    elif name == "USER":
        stage.user = words[0]
    else:
        assert name in ("WORKDIR", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD")


def copy_context(target: Path) -> None:
    """Copy what `.dockerignore` lets into the build, as of the last commit."""
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    names = [line[1:] for line in kept if line.startswith("!")]
    archive = subprocess.run(
        ["git", "archive", "HEAD", *names], cwd=ROOT, check=True, capture_output=True
    )
    target.mkdir()
    subprocess.run(["tar", "-x", "-C", str(target)], input=archive.stdout, check=True)


@pytest.mark.skipif(
    not os.environ.get("COCA_TEST_IMAGE"),
    reason="not tested: the steps of the Dockerfile; `make test-image` runs them, as root",
)
@pytest.mark.timeout(3600)
def test_the_steps_make_an_image_that_indexes_searches_and_serves(image: Chroot) -> None:
    photos = image.root / "images"
    photos.mkdir()
    for number in range(3):
        (photos / f"{number}.png").write_bytes(image_bytes(number))
    coca = words_of("ENTRYPOINT")
    assert json.loads(image.run([*coca, "index", "/images", "--json"]))["count"] == 3
    assert json.loads(image.run([*coca, "search", "a square", "--json"]))[0]["caption"]
    assert image.run(["/usr/bin/id", "-u"]).strip() == last("USER")
    assert not any((image.root / "opt/coca").rglob("site-packages/torch"))
    port = str(free_port())
    served = image.command([*coca, *words_of("CMD"), "--port", port], COCA_API_KEYS=KEY)
    with subprocess.Popen(served) as service:
        try:
            healthy = [word.replace(last("EXPOSE"), port) for word in words_of("HEALTHCHECK")]
            for _ in range(120):
                time.sleep(1)
                if not subprocess.run(image.command(healthy), capture_output=True).returncode:
                    break
            image.run(healthy)
        finally:
            service.terminate()
