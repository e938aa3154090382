"""Plugins published to a fleet: files kept as versions, the word in Redis, and who follows it."""

import json
import os
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from service import cli
from service.errors import InvalidRequest, UnknownPlugin
from service.job_queue import JobQueue
from service.models.backbone import Backbone
from service.models.plugin_store import PluginStore
from service.plugin_manifest import PluginManifest, installed_plugins, plugin_folder
from service.plugin_publish import Publisher
from service.queue_plugins import FleetPlugins
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin

KEPT_S = 60.0


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """store/ with a base and derain 1.0.0; new/ with derain 1.1.0 and 1.2.0, each in a store."""
    folder = tmp_path_factory.mktemp("written")
    write_tiny_base(folder / "store")
    write_tiny_plugin(folder / "store", "derain", 0)
    for version in ("1.1.0", "1.2.0"):
        write_tiny_plugin(folder / version, "derain", hash(version), version=version)
    return folder


@dataclass
class Bench:
    root: Path
    store: Path
    publisher: Publisher
    fleet: FleetPlugins

    def new(self, version: str) -> Path:
        return plugin_folder(self.root / version, BASE, "derain")

    @property
    def versions(self) -> list[str]:
        kept = plugin_folder(self.store, BASE, "derain") / "versions"
        return sorted(path.name for path in kept.iterdir())

    async def served(self) -> dict[str, PluginManifest]:
        return (await self.fleet.published()).over(installed_plugins(self.store, BASE))


@pytest.fixture
async def bench(queue: JobQueue, written: Path, tmp_path: Path) -> AsyncIterator[Bench]:
    root = tmp_path / "files"
    shutil.copytree(written, root)
    store = root / "store"
    yield Bench(root, store, Publisher(queue, store, BASE, KEPT_S), FleetPlugins(queue, BASE))


async def test_a_store_follows_what_is_published_and_keeps_what_an_edit_started_with(
    bench: Bench,
) -> None:
    store = PluginStore(bench.store, Backbone.load(bench.store / BASE))
    store.load_all()
    before = store.get("derain")
    await bench.publisher.publish(bench.new("1.1.0"))
    assert store.follow(await bench.fleet.published()) == {}
    assert store.versions == {"derain": "1.1.0"}
    assert store.get("derain").manifest.version == "1.1.0"
    assert store.get("derain", "1.0.0") is before
    # A process that starts now finds both, with their own weights.
    fresh = PluginStore(bench.store, Backbone.load(bench.store / BASE))
    fresh.follow(await bench.fleet.published())
    assert fresh.get("derain", "1.0.0").manifest.digest == before.manifest.digest
    assert fresh.get("derain").manifest.digest != before.manifest.digest


async def test_a_removed_plugin_is_refused_and_can_be_published_again(bench: Bench) -> None:
    store = PluginStore(bench.store, Backbone.load(bench.store / BASE))
    await bench.publisher.remove("derain")
    store.follow(await bench.fleet.published())
    with pytest.raises(UnknownPlugin, match="removed"):
        store.get("derain")
    assert store.get("derain", "1.0.0").manifest.version == "1.0.0"
    assert await bench.served() == {}
    with pytest.raises(UnknownPlugin, match="no plugin is called 'derain'"):
        await bench.publisher.remove("derain")
    again = plugin_folder(bench.store, BASE, "derain") / "versions" / "1.0.0"
    await bench.publisher.publish(again)
    assert store.follow(await bench.fleet.published()) == {}
    assert store.get("derain").manifest.version == "1.0.0"


async def test_what_was_published_is_served_after_redis_has_forgotten_it(bench: Bench) -> None:
    await bench.publisher.publish(bench.new("1.1.0"))
    assert installed_plugins(bench.store, BASE)["derain"].version == "1.1.0"
    await bench.publisher.remove("derain")
    assert installed_plugins(bench.store, BASE) == {}


async def test_a_version_is_one_set_of_weights(bench: Bench) -> None:
    write_tiny_plugin(bench.root / "other", "derain", 77, version="1.0.0")
    with pytest.raises(InvalidRequest, match="raise the version"):
        await bench.publisher.publish(plugin_folder(bench.root / "other", BASE, "derain"))
    assert await bench.fleet.generation() == 0


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda new: (new / "weights.safetensors").write_bytes(b"\x80\x04pickle"), "safetensors"),
        (lambda new: (new / "weights.safetensors").unlink(), "is missing"),
        (lambda new: shutil.rmtree(new), "is no folder"),
        (
            lambda new: (new / "weights.safetensors").write_bytes(
                (new / "weights.safetensors").read_bytes()[:-1]
            ),
            "sha256 differs",
        ),
        (
            lambda new: (new / "manifest.json").write_text(
                json.dumps(json.loads((new / "manifest.json").read_text()) | {"base": "sd15"})
            ),
            "trained on base 'sd15'",
        ),
    ],
)
async def test_what_is_damaged_is_not_published(bench: Bench, damage, reason: str) -> None:  # type: ignore[no-untyped-def]
    damage(bench.new("1.1.0"))
    with pytest.raises(InvalidRequest, match=reason):
        await bench.publisher.publish(bench.new("1.1.0"))
    assert (await bench.served())["derain"].version == "1.0.0"


async def test_a_store_without_the_files_says_so_and_goes_on_with_what_it_has(
    bench: Bench, tmp_path: Path
) -> None:
    shutil.copytree(bench.store, tmp_path / "elsewhere")
    store = PluginStore(tmp_path / "elsewhere", Backbone.load(bench.store / BASE))
    before = store.get("derain")
    await bench.publisher.publish(bench.new("1.1.0"))
    faults = store.follow(await bench.fleet.published())
    assert "need the same plugins_store" in faults["derain"]
    assert store.get("derain") is before


async def test_versions_that_no_job_can_need_are_deleted(bench: Bench) -> None:
    await bench.publisher.publish(bench.new("1.1.0"))
    assert bench.versions == ["1.0.0", "1.1.0"]
    old = plugin_folder(bench.store, BASE, "derain") / "versions" / "1.0.0"
    long_ago = time.time() - 2 * KEPT_S
    os.utime(old, (long_ago, long_ago))
    await bench.publisher.publish(bench.new("1.2.0"))
    assert bench.versions == ["1.1.0", "1.2.0"]


async def test_what_a_newer_release_published_is_left_out(bench: Bench, queue: JobQueue) -> None:
    await queue.redis.hset(f"test:plugins:{BASE}", "derain", '{"from": "the future"}')
    assert (await bench.fleet.published()).plugins == {}


def test_commands_publish_show_and_remove(
    redis_url: str,
    written: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(written, tmp_path / "files")
    monkeypatch.setenv("DIFFPLUGIN_REDIS_URL", redis_url)
    monkeypatch.setenv("DIFFPLUGIN_PLUGINS_STORE", str(tmp_path / "files" / "store"))
    monkeypatch.setenv("DIFFPLUGIN_BASE", BASE)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["diffplugin", "plugins", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    new = plugin_folder(tmp_path / "files" / "1.1.0", BASE, "derain")
    assert run("publish", str(new))[:2] == (
        0,
        "derain 1.1.0 is published; see: diffplugin plugins fleet\n",
    )
    assert run("fleet")[1].startswith("derain       1.1.0  sha256:")
    assert json.loads(run("fleet", "--json")[1])["published"] == {"derain": "1.1.0"}
    assert run("remove", "derain")[0] == 0
    assert run("fleet")[1] == "derain       removed\n"
    for wrong in (("remove", "derain"), ("publish", str(tmp_path / "nowhere"))):
        code, _, error = run(*wrong)
        assert code == 2 and error.startswith("error: ") and error.count("\n") == 1
