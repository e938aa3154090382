"""A loaded Task-Plugin: manifest, TPB, SCB and output stage, ready to run (paper section 3.3)."""

import time
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from service.errors import UnknownPlugin
from service.models.backbone import Backbone
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
        """Read and check one plugin folder; UnknownPlugin says what is wrong with it.

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
            SCB(SCBConfig.from_unet(unet, manifest.output_skip)),
            OutputStage(manifest.output_stage) if manifest.output_stage else None,
        )
        time.sleep(pause_s)
        try:
            plugin.load_state_dict(load_file(folder / WEIGHTS))
        except RuntimeError as error:
            raise UnknownPlugin(f"{folder} does not fit base {backbone.name}: {error}") from error
        time.sleep(pause_s)
        return plugin.to(backbone.device, backbone.dtype).requires_grad_(False).eval()


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


def save_plugin(
    folder: Path,
    tpb: TPB,
    scb: SCB,
    manifest: PluginManifest,
    card: str,
    stage: OutputStage | None = None,
) -> PluginManifest:
    """Write weights (fp16), manifest and model card; returns the manifest with its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {f"tpb.{k}": v for k, v in tpb.state_dict().items()}
    state |= {f"scb.{k}": v for k, v in scb.state_dict().items()}
    if stage is not None:
        state |= {f"stage.{k}": v for k, v in stage.state_dict().items()}
    half = {k: v.to("cpu", torch.float16).contiguous() for k, v in state.items()}
    save_file(half, folder / WEIGHTS, metadata={k: str(v) for k, v in asdict(scb.config).items()})
    signed = manifest.model_copy(update={"digest": weights_digest(folder)})
    (folder / "manifest.json").write_text(signed.model_dump_json(indent=2) + "\n")
    (folder / "README.md").write_text(card)
    return signed
