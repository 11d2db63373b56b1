"""Files of the web page: modules, styles and icons joined, and compared before each use.

The modules are the sources; a browser over a slow network would otherwise wait for some dozens of
files. Each module becomes a function whose exports the others take from its result.
"""

import gzip
import re
from pathlib import Path
from typing import Any

from anyio import to_thread
from fastapi import HTTPException, Response
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers
from starlette.types import Scope

from coca.search.records import content_id

PAGE = Path(__file__).parent / "page"
"""Folder of the web page; it is served if it has an `index.html`."""
MAIN = "main.js"
"""Module that starts the page."""
STYLES = ("base", "header", "wall", "filters", "item", "panels")
"""Style sheets in the order in which they apply."""

_IMPORT = re.compile(r'^import (?:(\{[^}]*\}) from )?"\./([\w-]+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:function\*?|class|const|let) ([\w$]+))", re.MULTILINE)


def bundle_scripts(folder: Path) -> str:
    """Join the modules of a folder into one module, each after those that it imports.

    A module may import names as `import { a, b } from "./file.js"` and export declarations.
    """
    parts = []
    for name, text in _ordered(folder, MAIN, {}).items():
        exported = ", ".join(found[2] for found in _EXPORT.finditer(text))
        text = _IMPORT.sub(lambda found: _taken(*found.groups()), _EXPORT.sub(r"\1", text))
        body = f"{text}return {{ {exported} }};\n"
        parts.append(f"const {_variable(name)} = await (async () => {{\n{body}}})();\n")
    return "".join(parts)


def bundle_styles(folder: Path) -> str:
    """Join the style sheets of a folder."""
    return "".join((folder / f"{name}.css").read_text(encoding="utf-8") for name in STYLES)


def _ordered(folder: Path, name: str, texts: dict[str, str]) -> dict[str, str]:
    """Add a module to `texts` after its imports."""
    text = (folder / name).read_text(encoding="utf-8")
    for found in _IMPORT.finditer(text):
        if found[2] not in texts:
            _ordered(folder, found[2], texts)
    texts[name] = text
    return texts


def _taken(names: str | None, module: str) -> str:
    """Write an import as a declaration."""
    return f"const {names.replace(' as ', ': ')} = {_variable(module)};\n" if names else ""


def _variable(module: str) -> str:
    return "in_" + re.sub(r"\W", "_", module.removesuffix(".js"))


class PageFiles(StaticFiles):
    """Files of the page, which a browser compares with the service before each use.

    After an upgrade, a page of old and new scripts would otherwise fail.
    """

    def __init__(self) -> None:
        super().__init__(directory=PAGE, html=True)
        index = (PAGE / "index.html").read_text(encoding="utf-8")
        icons = (PAGE / "icons.svg").read_text(encoding="utf-8")
        self._bundles = {
            ".": _Bundle(index.replace("<!-- icons.svg -->", icons), "text/html"),
            "page.js": _Bundle(bundle_scripts(PAGE / "scripts"), "text/javascript"),
            "page.css": _Bundle(bundle_styles(PAGE / "styles"), "text/css"),
        }

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, or a bundle."""
        # Otherwise any unknown path has status 405 for other methods, as if it were there.
        if scope["method"] not in ("GET", "HEAD"):
            _, found = await to_thread.run_sync(self.lookup_path, path)
            if found is None:
                raise HTTPException(404)
        elif bundle := self._bundles.get(path):
            return bundle.response(Headers(scope=scope))
        return await super().get_response(path, scope)

    def file_response(self, *args: Any, **options: Any) -> Response:
        """Return a file that is compared before each use."""
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response


class _Bundle:
    """Joined files, compressed once."""

    def __init__(self, text: str, media_type: str) -> None:
        self._plain, self._media_type = text.encode(), media_type
        self._small = gzip.compress(self._plain, mtime=0)
        self._etag = f'"{content_id(self._plain)}"'

    def response(self, asked: Headers) -> Response:
        headers = {"ETag": self._etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if asked.get("if-none-match") == self._etag:
            return Response(status_code=304, headers=headers)
        if "gzip" in asked.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            return Response(self._small, media_type=self._media_type, headers=headers)
        return Response(self._plain, media_type=self._media_type, headers=headers)
