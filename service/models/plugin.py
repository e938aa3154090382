"""A loaded Task-Plugin: manifest, TPB, SCB and output stage, ready to run (paper section 3.3)."""

import time
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from service.errors import UnknownPlugin
from service.models.backbone import Backbone
from service.models.checkpoint import State
from service.models.output_stage import OutputStage
from service.models.scb import SCB, SCBConfig
from service.models.tpb import TPB
from service.plugin_manifest import WEIGHTS, PluginManifest, read_manifest, weights_digest


class Plugin(nn.Module):
    """TPB, SCB and output stage of one task, in the dtype and on the device of its backbone."""

    def __init__(
        self, manifest: PluginManifest, tpb: TPB, scb: SCB, stage: OutputStage | None = None
    ) -> None:
        super().__init__()
        self.manifest, self.tpb, self.scb, self.stage = manifest, tpb, scb, stage

    @property
    def num_bytes(self) -> int:
        """Of its weights, where they lie."""
        return sum(weights.nbytes for weights in self.state_dict().values())

    @classmethod
    def load(cls, folder: Path, backbone: Backbone, pause_s: float = 0.0) -> "Plugin":
        """Read and check one plugin folder into host memory, in the dtype of its backbone.

        UnknownPlugin says what is wrong with it.

        `pause_s`: between its parts, so that a thread beside it is never held up by all of them.
        """
        manifest = read_manifest(folder, is_named=False)
        _check_files(folder, manifest, backbone.name)
        prediction = backbone.scheduler_config.get("prediction_type", "epsilon")
        if manifest.output_skip and prediction != "sample":
            # The skip adds a clean latent, which is wrong for a predicted noise or velocity.
            raise UnknownPlugin(
                f"{manifest.name}: output_skip needs a base that predicts the sample"
            )
        unet = dict(backbone.unet.config)
        time.sleep(pause_s)
        plugin = cls(
            manifest,
            TPB(backbone.image_encoder.config.hidden_size, unet["cross_attention_dim"]),
            SCB(_scb_config(folder, unet, manifest)),
            OutputStage(manifest.output_stage) if manifest.output_stage else None,
        )
        time.sleep(pause_s)
        try:
            plugin.load_state_dict(load_file(folder / WEIGHTS))
        except RuntimeError as error:
            raise UnknownPlugin(f"{folder} does not fit base {backbone.name}: {error}") from error
        time.sleep(pause_s)
        return plugin.to(backbone.dtype).requires_grad_(False).eval()

    def under(self, manifest: PluginManifest) -> "Plugin":
        """The same weights, described anew."""
        return (
            self if manifest == self.manifest else Plugin(manifest, self.tpb, self.scb, self.stage)
        )


def _check_files(folder: Path, manifest: PluginManifest, base: str) -> None:
    if manifest.base != base:
        raise UnknownPlugin(f"{folder} was trained on base {manifest.base!r}; this one is {base!r}")
    if not (folder / WEIGHTS).is_file():
        raise UnknownPlugin(f"{folder / WEIGHTS} is missing; copy it beside its manifest")
    if weights_digest(folder) != manifest.digest:
        raise UnknownPlugin(
            f"{folder / WEIGHTS} is not the file that its manifest describes (sha256 differs); "
            "copy both again from one place"
        )


def _scb_config(folder: Path, unet: dict[str, Any], manifest: PluginManifest) -> SCBConfig:
    """What the weights file says of itself; it need only agree with the UNet where they meet."""
    fitting = SCBConfig.from_unet(unet, manifest.output_skip)
    with safe_open(folder / WEIGHTS, "pt") as file:
        metadata = file.metadata() or {}
    config = SCBConfig.from_metadata(metadata) or fitting
    for field in ("in_channels", "channels", "cross_attention_dim", "num_layers", "output_skip"):
        if getattr(config, field) != getattr(fitting, field):
            raise UnknownPlugin(
                f"{folder} does not fit base {manifest.base}: its SCB has {field} "
                f"{getattr(config, field)}, and {getattr(fitting, field)} is needed"
            )
    return config


def save_plugin(
    folder: Path,
    tpb: TPB,
    scb: SCB,
    manifest: PluginManifest,
    card: str,
    stage: OutputStage | None = None,
) -> PluginManifest:
    """Write weights (fp16), manifest and model card; returns the manifest with its digest."""
    state = {f"tpb.{k}": v for k, v in tpb.state_dict().items()}
    state |= {f"scb.{k}": v for k, v in scb.state_dict().items()}
    if stage is not None:
        state |= {f"stage.{k}": v for k, v in stage.state_dict().items()}
    half = {k: v.to("cpu", torch.float16) for k, v in state.items()}
    return write_plugin(folder, half, scb.config, manifest, card)


def write_plugin(
    folder: Path, state: State, config: SCBConfig, manifest: PluginManifest, card: str
) -> PluginManifest:
    """As save_plugin, for tensors as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    # Cloned: what shares memory cannot be written.
    own = {name: value.contiguous().clone() for name, value in state.items()}
    save_file(own, folder / WEIGHTS, metadata=config.to_metadata())
    signed = manifest.model_copy(update={"digest": weights_digest(folder)})
    (folder / "manifest.json").write_text(signed.model_dump_json(indent=2) + "\n")
    (folder / "README.md").write_text(card)
    return signed
