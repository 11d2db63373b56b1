"""The Hugging Face hub, as far as loading needs it: names of files, and the files."""

import socket
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit
from urllib.request import getproxies

from coca.core.errors import ModelError
from coca.core.extras import require


@runtime_checkable
class Hub(Protocol):
    """Somewhere to fetch files of models from, and to put them."""

    def files(self, repo: str, *, revision: str | None) -> list[str]:
        """Names of the files of a repository; raises `ModelError` with the reason if it cannot."""
        ...

    def fetch(self, repo: str, name: str, *, revision: str | None) -> Path:
        """A file on this machine; raises `ModelError` with the reason if it cannot."""
        ...

    def upload(self, folder: Path, repo: str, *, private: bool) -> None:
        """Puts a folder into a repository; raises `ModelError` with the reason if it cannot."""
        ...


class HuggingFace:
    """The hub itself, through huggingface_hub: its cache, its settings, its bar of progress."""

    def __init__(self, endpoint: str | None = None) -> None:
        """`endpoint` is the address of a mirror; None leaves it to huggingface_hub."""
        self._endpoint = endpoint

    def files(self, repo: str, *, revision: str | None) -> list[str]:
        """Names of the files of a repository.

        Raises:
            ModelError: The hub cannot be reached, or has no such repository.
            MissingExtraError: huggingface_hub is not installed.
        """
        hub = _package()
        if self._is_out_of_reach(hub):
            raise ModelError("the hub cannot be reached: its name has no address here")
        try:
            return list(hub.HfApi(endpoint=self._endpoint).list_repo_files(repo, revision=revision))
        except Exception as error:
            raise ModelError(_reason(hub, error)) from error

    def fetch(self, repo: str, name: str, *, revision: str | None) -> Path:
        """Downloads a file, unless it was before, into the cache that all users of the hub share.

        Raises:
            ModelError: The hub cannot be reached, or has no such file.
            MissingExtraError: huggingface_hub is not installed.
        """
        hub = _package()
        try:
            path = hub.hf_hub_download(
                repo,
                name,
                revision=revision,
                endpoint=self._endpoint,
                local_files_only=self._is_out_of_reach(hub),
            )
        except Exception as error:
            raise ModelError(_reason(hub, error)) from error
        return Path(path)

    def upload(self, folder: Path, repo: str, *, private: bool) -> None:
        """Puts a folder into a repository, which is made if it is missing.

        Raises:
            ModelError: The hub cannot be reached, or refuses it.
            MissingExtraError: huggingface_hub is not installed.
        """
        hub = _package()
        api = hub.HfApi(endpoint=self._endpoint)
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo, folder_path=folder)
        except Exception as error:
            raise ModelError(
                f"{folder} cannot be put into {repo}: {_reason(hub, error)}"
            ) from error

    def _is_out_of_reach(self, hub: Any) -> bool:
        """Whether there is no network: huggingface_hub itself tries for half a minute to find out.

        Behind a proxy only the proxy may know the name.
        """
        host = urlsplit(hub.HfApi(endpoint=self._endpoint).endpoint).hostname
        if getproxies():
            return False
        try:
            socket.getaddrinfo(host, None)
        except OSError:
            return True
        return False


def _package() -> Any:
    return require("huggingface_hub", extra="hub")


def _reason(hub: Any, error: Exception) -> str:
    """A few words; the package's errors are many, some of other packages, and fill a page."""
    match error:
        case hub.errors.GatedRepoError():
            return "its owner asks you to accept terms and to log in"
        case hub.errors.RepositoryNotFoundError():
            return "the hub has no such repository, or hides it"
        case hub.errors.RevisionNotFoundError():
            return "the repository has no such revision"
        case hub.errors.LocalEntryNotFoundError():
            return f"the hub cannot be reached{_because(error.__cause__)}"
        case hub.errors.EntryNotFoundError():
            return "the repository has no such file"
        case hub.errors.HFValidationError():
            return "this is no name of a repository"
    return f"the hub cannot be reached{_because(error)}"


def _because(error: BaseException | None) -> str:
    if error is None:
        return ""
    return f": {next(iter(str(error).splitlines()), type(error).__name__)}"
