"""Client of the Hugging Face hub: list, download and upload the files of a repository."""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit
from urllib.request import getproxies

from coca.core.errors import ModelError
from coca.core.extras import require


@runtime_checkable
class Hub(Protocol):
    """Interface of a model hub."""

    def files(self, repo: str, *, revision: str | None) -> list[str]:
        """List the files of a repository; raises `ModelError` with the reason on failure."""
        ...

    def fetch(self, repo: str, name: str, *, revision: str | None) -> Path:
        """Download a file, return its path; raises `ModelError` with the reason on failure."""
        ...

    def about(self, repo: str, names: Sequence[str], *, revision: str | None) -> str:
        """Describe the files that a download needs, such as `605 MB, licence mit`; else empty."""
        ...

    def upload(self, folder: Path, repo: str, *, private: bool) -> None:
        """Upload a folder to a repository; raises `ModelError` with the reason on failure."""
        ...


class HuggingFace:
    """The Hugging Face hub through huggingface_hub, with its cache, settings and progress bar."""

    def __init__(self, endpoint: str | None = None) -> None:
        """Create a client; `endpoint` is the URL of a mirror, None huggingface_hub's default."""
        self._endpoint = endpoint

    def files(self, repo: str, *, revision: str | None) -> list[str]:
        """List the files of a repository."""
        hub = _package()
        if self._is_out_of_reach(hub):
            raise ModelError("the hub cannot be reached: its name has no address here")
        try:
            return list(hub.HfApi(endpoint=self._endpoint).list_repo_files(repo, revision=revision))
        except Exception as error:
            raise ModelError(_reason(hub, error)) from error

    def fetch(self, repo: str, name: str, *, revision: str | None) -> Path:
        """Download a file into huggingface_hub's cache, unless it is cached."""
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

    def about(self, repo: str, names: Sequence[str], *, revision: str | None) -> str:
        """Describe the size and licence of files that are not in huggingface_hub's cache.

        Returns:
            Such as `605 MB, licence mit`; empty if all are there, or the hub cannot be reached.
        """
        hub = _package()
        api = hub.HfApi(endpoint=self._endpoint)
        places = [hub.try_to_load_from_cache(repo, it, revision=revision) for it in names]
        missing = {it for it, at in zip(names, places, strict=True) if not isinstance(at, str)}
        if not missing or self._is_out_of_reach(hub):
            return ""
        try:
            found = api.model_info(repo, revision=revision, files_metadata=True)
        except Exception:
            # The download reports the error.
            return ""
        size = sum(file.size or 0 for file in found.siblings or () if file.rfilename in missing)
        licence = (found.card_data or {}).get("license") or "not stated"
        return f"{size / 1e6:,.0f} MB, licence {licence}"

    def upload(self, folder: Path, repo: str, *, private: bool) -> None:
        """Upload a folder to a repository, created if missing."""
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
        """Check for a missing network by DNS; huggingface_hub itself retries for 30 seconds.

        Behind a proxy the check is skipped, since only the proxy may resolve the name.
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
    """Summarize an error of huggingface_hub, whose own messages fill a page."""
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
            return "this is not a name of a repository"
    return f"the hub cannot be reached{_because(error)}"


def _because(error: BaseException | None) -> str:
    if error is None:
        return ""
    return f": {next(iter(str(error).splitlines()), type(error).__name__)}"
