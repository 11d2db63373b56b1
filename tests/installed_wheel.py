"""Use a wheel that is installed alone, as its users do: five commands and the service, no torch.

    python -m pip install "dist/coca_captioners-....whl[serve]"
    python -I tests/installed_wheel.py

`make test-wheel` builds the wheel and runs this in an empty environment.
"""

import base64
import json
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile


def coca(*words: str, cwd: Path, code: int = 0) -> str:
    """Run a command of the installed package and return its output."""
    command = [str(Path(sys.executable).with_name("coca")), *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    sys.stdout.write(f"coca {' '.join(words)}: {done.returncode}\n")
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def main() -> None:
    """Index, search, caption, classify, find duplicates and serve the photos of the package."""
    import coca as package

    assert Path(package.__file__).is_relative_to(sys.prefix), package.__file__
    assert find_spec("torch") is None, "torch is installed"
    with TemporaryDirectory() as name:
        folder = Path(name)
        demo = Path(package.__file__).parent / "workflows" / "demo"
        with ZipFile(demo / "photos.zip") as archive:
            archive.extractall(
                folder / "photos", [it for it in archive.namelist() if it.endswith(".webp")][:60]
            )
        photos = sorted((folder / "photos").iterdir())
        (folder / "photos" / "copy.webp").write_bytes(photos[0].read_bytes())
        coca("index", "photos", "--uri", "photos.db", "--no-captions", cwd=folder)
        found = coca("search", "red car", "--uri", "photos.db", "--json", cwd=folder)
        assert '"score"' in found, found
        assert coca("caption", str(photos[1]), cwd=folder).strip()
        labels = ("--labels", "car,frog,apple")
        assert "car" in coca("classify", str(photos[1]), *labels, cwd=folder)
        twins = coca("duplicates", "--uri", "photos.db", "--json", cwd=folder)
        assert "copy.webp" in twins, twins
        serve(folder, photos[1])
        # The error of a missing extra names this wheel, whose name nobody else can register.
        error = coca(
            "caption", str(photos[1]), "--model", "openclip:ViT-B-32/x", cwd=folder, code=1
        )
        assert ".whl[" in error, error


def serve(folder: Path, photo: Path) -> None:
    """Search by a text and by an image over HTTP, and read the page."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("coca")), "serve", "--uri", "photos.db"]
    process = subprocess.Popen([*command, "--port", str(port)], cwd=folder)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                assert "coca" in read(f"{url}/")
                break
            except OSError:
                assert process.poll() is None, "the service ended"
                time.sleep(0.1)
        image = "data:image/webp;base64," + base64.b64encode(photo.read_bytes()).decode()
        for query in ({"text": "red car"}, {"image": image}):
            hits = json.loads(read(f"{url}/v1/search", {**query, "limit": 5}))["hits"]
            assert len(hits) == 5, hits
        sys.stdout.write("coca serve: searched by text and image\n")
    finally:
        process.terminate()
        process.wait()


def read(url: str, body: dict[str, Any] | None = None) -> str:
    """Return the answer to a request, of a body as JSON."""
    headers = {"Content-Type": "application/json"}
    data = json.dumps(body).encode() if body else None
    with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as answer:
        return str(answer.read().decode())


if __name__ == "__main__":
    main()
