"""A hub whose repositories are folders."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from coca.core.errors import ModelError


class FolderHub:
    """Repositories are folders within one; counts what it was asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fetched: list[str] = []

    def files(self, repo: str, *, revision: str | None) -> list[str]:
        folder = self._folder(repo, revision)
        files = (path for path in folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(folder).as_posix() for path in files)

    def fetch(self, repo: str, name: str, *, revision: str | None) -> Path:
        self.fetched.append(f"{repo}/{name}")
        path = self._folder(repo, revision) / name
        if not path.is_file():
            raise ModelError("the repository has no such file")
        return path

    def about(self, repo: str, names: Sequence[str], *, revision: str | None) -> str:
        return f"{len(names)} files, licence mit" if (self.root / repo).is_dir() else ""

    def upload(self, folder: Path, repo: str, *, private: bool) -> None:
        shutil.copytree(folder, self.root / repo, dirs_exist_ok=True)

    def _folder(self, repo: str, revision: str | None) -> Path:
        folder = self.root / (f"{repo}@{revision}" if revision else repo)
        if not folder.is_dir():
            raise ModelError("the hub has no such repository, or hides it")
        return folder
