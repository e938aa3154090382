"""Released checkpoints become plugins whatever way they lie on disk; bad ones change nothing."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from service.cli import app
from service.errors import InvalidCheckpoint
from service.models.backbone import Backbone
from service.models.plugin import Plugin
from service.plugin_import import LICENCE, import_released
from service.plugin_manifest import WEIGHTS, installed_plugins, plugin_folder
from service.selector.released import HEADS
from tests.released_tree import Released, Variant, build_released, write_released

BASE = "sd-tiny"
TASKS = ("desnow", "lowlight", "derain")
PLAIN = Variant(".safetensors", "", "", False, False, False)
VARIANTS = {
    "as released": Variant(),
    "safetensors": PLAIN,
    "DataParallel": Variant(prefix="module."),
    "no wrapper": Variant(wrapper=""),
    "another wrapper": Variant(wrapper="state_dict", prefix="module."),
    "new names of the VAE": replace(Variant(), has_old_vae_names=False),
    "one tower": replace(Variant(), has_both_towers=False),
}


@pytest.fixture(scope="module")
def made() -> Released:
    return build_released(7, TASKS)


@pytest.fixture
def tree(made: Released, tmp_path: Path) -> Path:
    write_released(tmp_path / "tree", made)
    return tmp_path / "tree"


def import_variant(made: Released, variant: Variant, folder: Path) -> Path:
    write_released(folder / "tree", made, variant)
    import_released(folder / "tree", folder / "store", BASE)
    return folder / "store"


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_the_same_weights_are_imported_from_every_variant(
    made: Released, variant: Variant, tmp_path: Path
) -> None:
    store = import_variant(made, variant, tmp_path)
    assert list(installed_plugins(store, BASE)) == sorted(TASKS)
    backbone = Backbone.load(store / BASE)
    for name, value in made.vae.state_dict().items():
        assert torch.equal(backbone.vae.state_dict()[name], value), name
    for name, value in made.clip.vision_model.state_dict().items():
        assert torch.equal(backbone.image_encoder.state_dict()[name], value), name
    for name, value in made.unet.state_dict().items():
        assert torch.equal(backbone.unet.state_dict()[name], value), name
    for task in TASKS:
        plugin = Plugin.load(plugin_folder(store, BASE, task), backbone)
        assert_same(plugin.scb.state_dict(), made.scbs[task].state_dict())
        assert_same(plugin.tpb.state_dict(), made.tpbs[task].state_dict())
    heads = load_file(store / BASE / "selector" / HEADS)
    assert_same(heads, {name: value.half() for name, value in made.heads.items()})


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name].float(), value.float()), name


def test_what_was_imported_keeps_every_bit_and_is_what_its_digest_says(
    made: Released, tmp_path: Path
) -> None:
    once = import_variant(made, Variant(), tmp_path / "a")
    again = import_variant(made, PLAIN, tmp_path / "b")
    for task in TASKS:
        a, b = (plugin_folder(store, BASE, task) for store in (once, again))
        assert (a / WEIGHTS).read_bytes() == (b / WEIGHTS).read_bytes()
        assert (a / "manifest.json").read_text() == (b / "manifest.json").read_text()
        dtypes = {name[:3]: value.dtype for name, value in load_file(a / WEIGHTS).items()}
        assert dtypes == {"tpb": torch.float16, "scb": torch.float32}
    result = run("plugins", "verify", store=once)
    assert result.exit_code == 0 and result.output.count("ok") == len(TASKS)


def test_the_licence_stands_wherever_a_plugin_is_listed(tree: Path, tmp_path: Path) -> None:
    result = run("plugins", "import", str(tree), "--base", BASE, store=tmp_path)
    assert result.exit_code == 0, result.output
    assert result.output.count(LICENCE) == len(TASKS)
    assert "3 plugins and the selector are in" in result.output
    assert run("plugins", "list", store=tmp_path).output.count(LICENCE) == len(TASKS)
    assert LICENCE in run("plugins", "show", "derain", store=tmp_path).output
    card = (plugin_folder(tmp_path, BASE, "derain") / "README.md").read_text()
    assert LICENCE in card and "not for commercial use" in card


def run(*arguments: str, store: Path) -> Any:
    env = {"DIFFPLUGIN_PLUGINS_STORE": str(store), "DIFFPLUGIN_BASE": BASE}
    return CliRunner(env=env).invoke(app, arguments)


def test_only_what_starts_from_noise_at_its_authors_does_so_here(
    tree: Path, tmp_path: Path
) -> None:
    import_released(tree, tmp_path / "store", BASE)
    manifests = installed_plugins(tmp_path / "store", BASE)
    starts = {name: manifest.start for name, manifest in manifests.items()}
    assert starts == {"derain": "image", "desnow": "image", "lowlight": "noise"}


class Code:
    """What a poisoned pickle does when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def damage(path: Path, kind: str, trace: Path) -> None:
    whole = path.read_bytes()
    if kind == "code":
        torch.save({"model": {"visual_projection.0.weight": Code(trace)}}, path)
    elif kind == "old code":
        torch.save({"model": Code(trace)}, path, _use_new_zipfile_serialization=False)
    elif kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "flipped":
        middle = whole.index(b"PK\x07\x08") - 64  # inside of the first tensor
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    elif kind == "pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif kind == "not finite":
        state = torch.load(path, weights_only=True)
        names = state.get("model", state)
        names[next(iter(names))].view(-1)[0] = float("nan")
        torch.save(state, path)
    elif kind == "other shape":
        state = torch.load(path, weights_only=True)
        names = state.get("model", state)
        first = next(iter(names))
        names[first] = torch.zeros(*(length + 1 for length in names[first].shape))
        torch.save(state, path)
    elif kind == "name missing":
        state = torch.load(path, weights_only=True)
        names = state.get("model", state)
        del names[next(iter(names))]
        torch.save(state, path)


@pytest.mark.parametrize(
    "file", ["derain/tpb.pt", "derain/scb/diffusion_pytorch_model.bin",
             "plugin_selector/PromptTunner.pt"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("code", "was not run: it asks for code"),
        ("old code", "was not run: it asks for code"),
        ("truncated", "truncated or damaged"),
        ("flipped", "changed or damaged: the checksum"),
        ("pointer", "no file of torch.save"),
        ("not finite", "not finite"),
        ("other shape", "has the shape"),
        ("name missing", "lacks|is missing"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_never_run_and_nothing_is_written(
    tree: Path, tmp_path: Path, file: str, kind: str, reason: str
) -> None:
    if kind == "other shape" and "selector" in file:
        reason = "lead to one width|has the shape"
    path, trace = tree / "pre-trained" / file, tmp_path / "trace"
    damage(path, kind, trace)
    with pytest.raises(InvalidCheckpoint, match=reason) as info:
        import_released(tree, tmp_path / "store", BASE)
    assert "\n" not in str(info.value) and str(path) in str(info.value)
    assert not trace.exists()
    assert not (tmp_path / "store").exists()


def test_a_base_that_is_not_whole_is_refused_before_a_worker_runs(
    tree: Path, tmp_path: Path
) -> None:
    import_released(tree, tmp_path / "store", BASE)
    weights = tree / "stable-diffusion" / "unet" / "diffusion_pytorch_model.bin"
    damage(weights, "truncated", tmp_path)
    with pytest.raises(InvalidCheckpoint, match="truncated or damaged"):
        Backbone.load(tmp_path / "store" / BASE)


def test_an_scb_of_another_kind_is_refused_by_the_key_of_its_config(
    tree: Path, tmp_path: Path
) -> None:
    path = tree / "pre-trained" / "derain" / "scb" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "act_fn": "gelu"}))
    with pytest.raises(InvalidCheckpoint, match="act_fn 'gelu' is not supported"):
        import_released(tree, tmp_path / "store", BASE)


def test_without_a_preprocessor_config_photos_are_prepared_as_clips_own(
    tree: Path, tmp_path: Path
) -> None:
    (tree / "clip" / "preprocessor_config.json").unlink()
    import_released(tree, tmp_path / "store", BASE)
    assert Backbone.load(tmp_path / "store" / BASE).preprocessor.size == 224


def test_a_folder_without_plugins_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpoint, match="is not the released layout"):
        import_released(tmp_path, tmp_path / "store", BASE)


def test_plugins_alone_need_a_base_that_is_named(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpoint, match="--diffusion and --image-encoder"):
        import_released(tree / "pre-trained", tmp_path / "store", BASE)
    import_released(
        tree / "pre-trained", tmp_path / "store", BASE, tree / "stable-diffusion", tree / "clip"
    )
    assert Backbone.load(tmp_path / "store" / BASE).name == BASE


def test_without_a_network_fetching_says_so(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / BASE).mkdir()
    sources = {"diffusion": "some/diffusion", "image_encoder": "some/clip"}
    (tmp_path / BASE / "base.json").write_text(json.dumps(sources))
    with pytest.raises(FileNotFoundError, match="run `diffplugin models fetch --base sd-tiny`"):
        Backbone.load(tmp_path / BASE)
    monkeypatch.setattr("service.models_fetch.ENDPOINT", "http://127.0.0.1:9")
    result = run("models", "fetch", "--base", BASE, store=tmp_path)
    assert "there is no network here" in str(result.exception)
