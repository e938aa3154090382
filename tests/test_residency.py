"""Plugins move between disk, host and device within budgets of bytes, the oldest use first."""

import json
import shutil
import threading
from pathlib import Path

import pytest
import torch

from service.models.backbone import Backbone
from service.models.plugin import Plugin
from service.models.plugin_store import PluginStore
from service.models.residency import ResidentPlugins
from service.models.scb import SCB, SCBConfig
from service.models.tpb import TPB
from service.plugin_manifest import PluginManifest, plugin_folder
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin

NUM_PLUGINS, ROOM = 300, 8


def small_plugin(name: str) -> Plugin:
    manifest = PluginManifest(
        name=name, title=name, version="1.0.0", base=BASE, example_instructions=(name,),
        licence="Apache-2.0", digest="sha256:" + 64 * "0",
    )  # fmt: skip
    config = SCBConfig(4, 8, 8, 1, num_layers=1, norm_num_groups=4)
    return Plugin(manifest, TPB(8, 8), SCB(config))


SIZE = small_plugin("a").num_bytes


class Disk:
    """Hands out plugins and counts how often."""

    def __init__(self) -> None:
        self.reads: list[str] = []

    def reader(self, name: str):
        def read() -> Plugin:
            self.reads.append(name)
            return small_plugin(name)

        return read


def get(resident: ResidentPlugins, disk: Disk, name: str) -> Plugin:
    return resident.get((name, ""), disk.reader(name))


def names(resident: ResidentPlugins) -> list[str]:
    return [name for (name, _), _ in resident.plugins]


def test_the_one_used_longest_ago_leaves_when_the_bytes_run_out() -> None:
    resident, disk = ResidentPlugins(torch.device("cpu"), 2 * SIZE, 0), Disk()
    first = get(resident, disk, "a")
    get(resident, disk, "b")
    assert get(resident, disk, "a") is first
    get(resident, disk, "c")
    assert names(resident) == ["a", "c"] and disk.reads == ["a", "b", "c"]
    counts = resident.counts
    assert (counts.num_hits, counts.num_misses, counts.num_evictions) == (1, 3, 1)
    assert counts.resident_bytes == 2 * SIZE


def test_one_that_is_larger_than_the_budget_is_served_alone() -> None:
    resident, disk = ResidentPlugins(torch.device("cpu"), SIZE // 2, 0), Disk()
    get(resident, disk, "a")
    get(resident, disk, "b")
    assert names(resident) == ["b"]


def test_what_left_the_device_comes_back_from_host_memory_and_not_from_disk() -> None:
    cpu = torch.device("cpu")
    resident, disk = ResidentPlugins(cpu, SIZE, 2 * SIZE, has_host_tier=True), Disk()
    for name in ("a", "b", "a", "c", "a", "b"):
        get(resident, disk, name)
    # b fell out of the host when c came: its last use there was longest ago.
    assert disk.reads == ["a", "b", "c", "b"]
    assert resident.counts.num_host_hits == 2 and resident.counts.num_misses == 4


def test_a_prefetch_reads_in_another_thread_and_get_waits_for_it() -> None:
    resident, go, threads = ResidentPlugins(torch.device("cpu"), SIZE, 0), threading.Event(), []

    def read() -> Plugin:
        assert go.wait(10)
        threads.append(threading.current_thread())
        return small_plugin("a")

    resident.prefetch(("a", ""), read)
    resident.prefetch(("a", ""), read)
    assert resident.is_coming(("a", "")) and names(resident) == []
    go.set()
    plugin = resident.get(("a", ""), read)
    assert plugin.manifest.name == "a" and len(threads) == 1
    assert threads[0] is not threading.main_thread()


def test_a_prefetch_that_fails_says_so_to_the_one_who_needs_it() -> None:
    resident = ResidentPlugins(torch.device("cpu"), SIZE, 0)

    def read() -> Plugin:
        raise OSError("disk gone")

    resident.prefetch(("a", ""), read)
    with pytest.raises(OSError, match="disk gone"):
        resident.get(("a", ""), read)


def test_300_plugins_in_the_store_work_with_room_for_8(tmp_path: Path) -> None:
    write_tiny_base(tmp_path)
    write_tiny_plugin(tmp_path, "p000", seed=1)
    first = plugin_folder(tmp_path, BASE, "p000")
    for number in range(1, NUM_PLUGINS):
        folder = first.with_name(f"p{number:03d}")
        shutil.copytree(first, folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "name": folder.name}))
    backbone = Backbone.load(tmp_path / BASE)
    size = Plugin.load(first, backbone).num_bytes
    store = PluginStore(tmp_path, backbone, max_bytes=ROOM * size)
    store.load_all()
    assert len(store.resident) == ROOM
    for number in (0, 299, 150, 299, 7):
        assert store.get(f"p{number:03d}").manifest.name == f"p{number:03d}"
        assert len(store.resident) == ROOM
    counts = store.residency
    assert counts.resident_bytes == ROOM * size
    assert counts.num_misses == ROOM + 2 and counts.num_evictions == 2 and counts.num_hits == 3
