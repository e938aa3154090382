"""300 plugins in the store with room for 8: what one costs from disk, from host memory, resident.

Plugins of the shipped base, copied under 300 names. The clock is this process' CPU time.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from service.models.backbone import Backbone, pick_device
from service.models.plugin import Plugin
from service.models.plugin_store import PluginStore
from service.plugin_manifest import plugin_folder

STORE, BASE, MODEL = Path("plugins_store"), "nano", "derain"
NUM_PLUGINS, ROOM, HOST_ROOM, NUM_REQUESTS = 300, 8, 64, 400


def write_plugins(root: Path) -> list[str]:
    """The names of 300 copies of one plugin."""
    names = [f"p{number:03d}" for number in range(NUM_PLUGINS)]
    for name in names:
        folder = plugin_folder(root, BASE, name)
        shutil.copytree(plugin_folder(STORE, BASE, MODEL), folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "name": name}))
    return names


def measure(store: PluginStore, names: list[str]) -> dict[str, float | int]:
    """Requests as they are: some plugins are asked for often, most seldom (Zipf, exponent 1)."""
    weights = 1 / np.arange(1, len(names) + 1)
    asked = np.random.default_rng(0).choice(names, NUM_REQUESTS, p=weights / weights.sum())
    spent: dict[str, list[float]] = {"resident_ms": [], "host_ms": [], "disk_ms": []}
    for name in asked:
        before = (store.residency.num_hits, store.residency.num_host_hits)
        start = time.process_time()
        store.get(str(name))
        elapsed_ms = 1000 * (time.process_time() - start)
        after = (store.residency.num_hits, store.residency.num_host_hits)
        place = "resident_ms" if after[0] > before[0] else "disk_ms"
        spent["host_ms" if after[1] > before[1] else place].append(elapsed_ms)
    counts = store.residency
    result: dict[str, float | int] = {
        place: round(statistics.median(values), 3) for place, values in spent.items() if values
    }
    return result | {
        "hits": counts.num_hits,
        "host_hits": counts.num_host_hits,
        "misses": counts.num_misses,
        "evictions": counts.num_evictions,
        "resident_mib": counts.resident_bytes // 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    device = pick_device(parser.parse_args().device)
    torch.set_num_threads(1)
    backbone = Backbone.load(STORE / BASE, device)
    size = Plugin.load(plugin_folder(STORE, BASE, MODEL), backbone).num_bytes
    with tempfile.TemporaryDirectory() as folder:
        names = write_plugins(Path(folder))
        for has_host_tier in (False, True):
            store = PluginStore(
                Path(folder), backbone, ROOM * size, HOST_ROOM * size, has_host_tier
            )
            report = measure(store, names)
            print(json.dumps({"device": device, "host_tier": has_host_tier, **report}))


if __name__ == "__main__":
    main()
