"""Plugins on disk: checked when read, resident while used, replaced while the service runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from service.errors import UnknownPlugin
from service.models.backbone import Backbone
from service.models.plugin import Plugin
from service.models.plugin_store import PluginStore
from service.plugin_manifest import WEIGHTS, installed_plugins, plugin_folder
from tests import tiny_latent_base
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin

NAMES = ("dehaze", "derain", "desnow")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    write_tiny_base(folder)
    for seed, name in enumerate(NAMES):
        write_tiny_plugin(folder, name, seed)
    return folder


@pytest.fixture(scope="module")
def backbone(written: Path) -> Backbone:
    return Backbone.load(written / BASE)


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    """A store whose plugins a test may damage."""
    shutil.copytree(written / BASE / "plugins", tmp_path / BASE / "plugins")
    return tmp_path


@pytest.fixture
def store(root: Path, backbone: Backbone) -> PluginStore:
    """With room for two of its three."""
    size = Plugin.load(plugin_folder(root, BASE, NAMES[0]), backbone).num_bytes
    return PluginStore(root, backbone, max_bytes=2 * size)


def edit_manifest(root: Path, name: str, changes: dict[str, Any]) -> None:
    path = plugin_folder(root, BASE, name) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_plugin_is_read_frozen_and_kept(store: PluginStore) -> None:
    plugin = store.get("derain")
    assert plugin.manifest.name == "derain"
    assert not plugin.training and not any(p.requires_grad for p in plugin.parameters())
    assert {p.dtype for p in plugin.parameters()} == {torch.float32}
    assert store.get("derain") is plugin


def test_the_least_recently_used_plugin_leaves(store: PluginStore) -> None:
    derain = store.get("derain")
    store.get("desnow")
    assert store.get("derain") is derain
    store.get("dehaze")
    assert store.resident == ("derain", "dehaze")
    assert store.get("derain") is derain


def test_all_that_fit_are_loaded_ahead(root: Path, backbone: Backbone, store: PluginStore) -> None:
    store.load_all()
    assert store.resident == NAMES[:2]
    roomy = PluginStore(root, backbone)
    roomy.load_all()
    assert roomy.resident == NAMES


def test_a_replaced_plugin_is_read_again(root: Path, store: PluginStore) -> None:
    old = store.get("derain")
    before = old.scb.taps[0].weight.clone()
    write_tiny_plugin(root, "derain", seed=9)
    new = store.get("derain")
    assert new is not old
    assert not torch.equal(new.scb.taps[0].weight, before)
    assert torch.equal(old.scb.taps[0].weight, before)


def test_a_plugin_installed_later_is_found_and_a_removed_one_is_not(
    root: Path, store: PluginStore
) -> None:
    write_tiny_plugin(root, "deblur", seed=5)
    assert store.get("deblur").manifest.name == "deblur"
    shutil.rmtree(plugin_folder(root, BASE, "deblur"))
    with pytest.raises(UnknownPlugin, match="no plugin 'deblur' is installed"):
        store.get("deblur")


def test_other_weights_than_the_manifest_describes_are_refused(
    root: Path, store: PluginStore
) -> None:
    weights = plugin_folder(root, BASE, "derain") / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UnknownPlugin, match=r"derain/weights\.safetensors is not the file") as info:
        store.get("derain")
    assert "copy both again" in str(info.value)


def test_missing_weights_are_reported_with_their_path(root: Path, store: PluginStore) -> None:
    (plugin_folder(root, BASE, "derain") / WEIGHTS).unlink()
    with pytest.raises(UnknownPlugin, match=r"derain/weights\.safetensors is missing"):
        store.get("derain")


def test_a_plugin_of_another_base_is_refused_by_name(root: Path, store: PluginStore) -> None:
    edit_manifest(root, "derain", {"base": "sd15"})
    with pytest.raises(UnknownPlugin, match="trained on base 'sd15'; this one is 'tiny'"):
        store.get("derain")


def test_weights_of_other_shapes_are_refused(root: Path, store: PluginStore) -> None:
    tiny_latent_base.write_latent_plugin(root, "derain", seed=0, output_skip=True)
    source = plugin_folder(root, tiny_latent_base.BASE, "derain")
    shutil.copytree(source, plugin_folder(root, BASE, "derain"), dirs_exist_ok=True)
    edit_manifest(root, "derain", {"base": BASE})
    with pytest.raises(UnknownPlugin, match="does not fit base tiny"):
        store.get("derain")


def test_a_skip_is_refused_by_a_base_that_predicts_noise(tmp_path: Path) -> None:
    tiny_latent_base.write_latent_base(tmp_path)
    tiny_latent_base.write_latent_plugin(tmp_path, "derain", seed=0, output_skip=True)
    store = PluginStore(tmp_path, Backbone.load(tmp_path / tiny_latent_base.BASE))
    with pytest.raises(UnknownPlugin, match="output_skip needs a base that predicts the sample"):
        store.get("derain")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"default_steps": 0}, "default_steps"),
        ({"surprise": 1}, "surprise"),
        ({"example_instructions": []}, "example_instructions"),
        ({"name": "desnow"}, "its folder must have that name"),
    ],
)
def test_a_malformed_manifest_is_refused_with_the_field(
    root: Path, store: PluginStore, changes: dict[str, Any], reason: str
) -> None:
    edit_manifest(root, "derain", changes)
    with pytest.raises(UnknownPlugin, match=reason) as info:
        store.get("derain")
    assert "manifest.json" in str(info.value)


def test_a_manifest_that_is_not_json_is_refused(root: Path, store: PluginStore) -> None:
    (plugin_folder(root, BASE, "derain") / "manifest.json").write_text("{")
    with pytest.raises(UnknownPlugin, match="malformed"):
        store.get("derain")


def test_a_broken_plugin_is_left_out_and_the_others_are_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tiny_base(tmp_path)
    for seed, name in enumerate(("derain", "desnow", "dehaze"), start=1):
        write_tiny_plugin(tmp_path, name, seed)
    (plugin_folder(tmp_path, BASE, "desnow") / "manifest.json").write_text("{}")
    (plugin_folder(tmp_path, BASE, "dehaze") / WEIGHTS).unlink()
    assert list(installed_plugins(tmp_path, BASE)) == ["dehaze", "derain"]
    plugins = PluginStore(tmp_path, Backbone.load(tmp_path / BASE))
    plugins.load_all()
    assert plugins.resident == ("derain",)
    assert "desnow" in caplog.text and "dehaze is not served" in caplog.text
