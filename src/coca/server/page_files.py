"""Files of the web page: ES modules and styles, which a browser loads as they are in its folder.

Their addresses contain a hash of all files, so that a browser keeps them for good, and a page after
an upgrade is never of old and new files. The document alone is compared before each use. It names
all modules, which a browser loads at once. With 100 ms to a busy service, the scripts take 2.2 s at
the first visit and 0.6 s later; one file took 0.7 s and 0.8 s.
"""

from pathlib import Path

from anyio import to_thread
from fastapi import HTTPException, Response
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers
from starlette.types import Scope

from coca.search.records import content_id

PAGE = Path(__file__).parent / "page"
"""Folder of the web page; it is served if it has an `index.html`."""
_CLASSIC = "theme.js"
"""The script that is not a module: it runs before the first paint."""


class PageFiles(StaticFiles):
    """Files of the page, each at its path and at `VERSION/PATH`, which never changes."""

    def __init__(self) -> None:
        super().__init__(directory=PAGE)
        files = sorted(file for file in PAGE.rglob("*") if file.is_file())
        self.version = content_id(b"".join(file.read_bytes() for file in files))
        """Changes with each file."""
        text = (PAGE / "index.html").read_text(encoding="utf-8")
        icons = (PAGE / "icons.svg").read_text(encoding="utf-8")
        modules = [file.name for file in files if file.suffix == ".js" and file.name != _CLASSIC]
        links = [f'<link rel="modulepreload" href="scripts/{name}">' for name in modules]
        text = text.replace("<!-- icons.svg -->", icons)
        text = text.replace("<!-- modules -->", "\n  ".join(links))
        for folder in ("scripts", "styles"):
            text = text.replace(f'="{folder}/', f'="{self.version}/{folder}/')
        self._document = text.encode()

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file."""
        version, _, below = path.partition("/")
        file = below if version == self.version else path
        # Otherwise any unknown path has status 405 for other methods, as if it were there.
        if scope["method"] not in ("GET", "HEAD"):
            _, found = await to_thread.run_sync(self.lookup_path, file)
            if found is None:
                raise HTTPException(404)
        elif path in (".", "index.html"):
            return self._index(Headers(scope=scope))
        response = await super().get_response(file, scope)
        lasts = "max-age=31536000, immutable" if file is below else "no-cache"
        response.headers["Cache-Control"] = lasts
        return response

    def _index(self, asked: Headers) -> Response:
        headers = {"ETag": f'"{content_id(self._document)}"', "Cache-Control": "no-cache"}
        if asked.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(self._document, media_type="text/html", headers=headers)
