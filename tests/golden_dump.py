"""Write the tensors that a meta.json names, made by the service's own engine from a released tree.

usage: python tests/golden_dump.py --tree TREE --images DIR --meta meta.json --out DIR

TREE is a checkpoint in the authors' layout. It is imported into a store of its own, and Engine,
ModelRunner, Plugin and ReleasedPlanner do every run of meta.json on it as the roles do it; what is
added here only looks. Inputs that were made up (probe_latents, fixed_eps, ...) are read from the
tensor files beside meta.json.
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file
from torch import Tensor

from service.engine.edit import Edit
from service.engine.engine import Engine
from service.engine.model_runner import ModelRunner, seeded_noise
from service.engine.preset import REFERENCE, REFERENCE_DEMO, Preset, with_min_side
from service.engine.sampling import SamplerState, add_noise, update
from service.engine.trajectory import Trajectory
from service.engine.updates import EditDone, EditFailed
from service.images import Pixels
from service.models.backbone import Backbone
from service.models.denoiser import denoise
from service.models.plugin import Plugin
from service.models.plugin_store import PluginStore
from service.plugin_import import import_released
from service.plugin_manifest import plugin_folder
from service.selector.released import (
    NULL,
    ReleasedPlanner,
    decided,
    load_released_planner,
    load_released_scorer,
    pooled,
)

BASE = "golden"
Tensors = dict[str, Tensor]


class Networks:
    """What went into and came out of the frozen networks at their last call."""

    def __init__(self, backbone: Backbone) -> None:
        self.seen: Tensors = {}
        self.hidden: tuple[Tensor, ...] = ()
        backbone.vae.encoder.register_forward_pre_hook(self._saw_input("vae_input"))
        backbone.vae.quant_conv.register_forward_hook(self._saw_output("moments"))
        backbone.vae.decoder.register_forward_hook(self._saw_output("decoded"))
        backbone.unet.register_forward_hook(self._saw_unet, with_kwargs=True)
        backbone.image_encoder.register_forward_hook(self._saw_clip, with_kwargs=True)

    def _saw_input(self, name: str) -> Callable[..., None]:
        return lambda _, args: self.seen.update({name: args[0]})

    def _saw_output(self, name: str) -> Callable[..., None]:
        return lambda _, args, output: self.seen.update({name: output})

    def _saw_unet(self, _: Any, args: Any, kwargs: Any, output: Any) -> None:
        latents = args[0] if args else kwargs["sample"]
        self.seen |= {"unet_in": latents, "eps": output[0]}

    def _saw_clip(self, _: Any, args: Any, kwargs: Any, output: Any) -> None:
        self.seen["clip_pixel_values"] = args[0] if args else kwargs["pixel_values"]
        self.hidden = output.hidden_states

    def clip(self) -> Tensors:
        """clip_pixel_values, and every clip_hidden_NN, whole and its first 8 tokens."""
        tensors = {"clip_pixel_values": self.seen["clip_pixel_values"]}
        for layer, states in enumerate(self.hidden):
            tensors[f"clip_hidden_{layer:02d}"] = states
            tensors[f"clip_hidden_{layer:02d}_first8"] = states[:, :8]
        return tensors


class RecordingRunner(ModelRunner):
    """The engine's runner, taking notes. In `prefix`, {task} is the number of the task."""

    def __init__(
        self, backbone: Backbone, store: PluginStore, preset: Preset, networks: Networks,
        prefix: str = "",
    ) -> None:  # fmt: skip
        super().__init__(backbone, store, preset=preset)
        self.networks, self.prefix, self.notes = networks, prefix, Tensors()

    def prepare(self, trajectories: Sequence[Trajectory]) -> None:
        super().prepare(trajectories)
        (trajectory,) = trajectories
        current, seen = trajectory.current, self.networks.seen
        self._note(
            trajectory,
            vae_input=seen["vae_input"],
            vae_input_uint8=torch.tensor(trajectory.pixels),
            moments=seen["moments"],
            scb_cond=current.complements.cond,
            timesteps=current.table.timesteps,
            noise=seeded_noise(current.state.x.shape, trajectory.edit.seed),
            tokens=current.complements.tokens,
            latents_initial=current.state.x,
            **self.networks.clip(),
        )

    def denoise(self, trajectories: Sequence[Trajectory]) -> float:
        (trajectory,) = trajectories
        current, step = trajectory.current, trajectory.step
        seconds = super().denoise(trajectories)
        self.forget(trajectory)  # the batch gives its sample back
        notes = {
            f"unet_in.{step:02d}": self.networks.seen["unet_in"],
            f"eps.{step:02d}": self.networks.seen["eps"],
            f"latents.{step:02d}": current.state.x,
        }
        residuals = torch.split(current.complements.at(step), list(self.step_widths), dim=1)
        notes |= {f"scb.{step:02d}.{k}": residual for k, residual in enumerate(residuals)}
        starts_from_image = current.complements.plugin.manifest.start == "image"
        if starts_from_image and (step == 0 or step in current.renoised):
            notes[f"renoised_at.{step:02d}"] = current.table.timesteps[step]
        self._note(trajectory, **notes)
        return seconds

    def decode(self, trajectories: Sequence[Trajectory]) -> None:
        super().decode(trajectories)
        self._note(trajectories[0], decoded=self.networks.seen["decoded"])

    def _note(self, trajectory: Trajectory, **tensors: Tensor) -> None:
        prefix = self.prefix.format(task=trajectory.task)
        self.notes |= {f"{prefix}{name}": value for name, value in tensors.items()}


class Dump:
    """One tree, imported; `run` answers one entry of meta.json's files."""

    def __init__(self, tree: Path, images: Path, meta: Path, store: Path) -> None:
        self.meta, self.images, self.root = json.loads(meta.read_text()), images, store
        self.inputs = meta.parent
        order = self.meta.get("tasks_in_order", ())
        import_released(tree, store, BASE, order=order)
        self.backbone = Backbone.load(store / BASE)
        self.plugins = PluginStore(store, self.backbone)
        self.networks = Networks(self.backbone)
        self.planner: ReleasedPlanner = load_released_planner(store, BASE, "cpu")

    def run(self, name: str) -> Tensors:
        """Every tensor of a run that can be told; meta.json says which are wanted."""
        made_by = self.meta["files"][name]["made_by"]
        kinds = {
            "prompts": self._selector,
            "prompt": self._demo,
            "num_inference_steps": self._infer,
            "t": self._probe,
            "fixed_eps": self._scheduler,
            "image": self._clip,
        }
        work = next(work for key, work in kinds.items() if key in made_by)
        with torch.inference_mode():
            return work(name, made_by)

    def _infer(self, _: str, made_by: Mapping[str, Any]) -> Tensors:
        pixels = self._open(made_by["image"], turn=True)
        self._set_start(made_by["task"], "noise" if made_by["random_noise"] else "image")
        preset = replace(
            REFERENCE,
            min_side=made_by.get("min_side", REFERENCE.min_side),
            renoise_from=made_by.get("time_threshold", REFERENCE.renoise_from),
        )
        steps, seed = made_by["num_inference_steps"], made_by["seed"]
        return self._edit(Edit(BASE, pixels, (made_by["task"],), steps, seed), preset, "")

    def _demo(self, _: str, made_by: Mapping[str, Any]) -> Tensors:
        pixels, side = self._open(made_by["image"]), made_by["image_resolution"]
        for task in self.planner.plugins:
            self._set_start(task, "noise" if task in ("lowlight", "highlight") else "image")
        plan = self.planner.plan(pixels, made_by["prompt"])
        tensors = self._scores(made_by["prompt"], self.planner.prompts(pixels))
        if not plan.runnable:
            resized = torch.tensor(with_min_side(pixels, side, always=True))
            return tensors | {"final_uint8": resized}
        preset = replace(REFERENCE_DEMO, min_side=side)
        edit = Edit(BASE, pixels, plan.runnable, made_by["inference_step"], made_by["seed"])
        return tensors | self._edit(edit, preset, "plugin{task}.")

    def _edit(self, edit: Edit, preset: Preset, prefix: str) -> Tensors:
        runner = RecordingRunner(self.backbone, self.plugins, preset, self.networks, prefix)
        engine = Engine(runner, max_batch_size=1)
        engine.add(edit)
        while engine.has_work:
            for done in engine.step():
                if isinstance(done, EditFailed):
                    raise done.error
                if isinstance(done, EditDone):
                    runner.notes["final_uint8"] = torch.tensor(done.pixels)
        return runner.notes

    def _selector(self, _: str, made_by: Mapping[str, Any]) -> Tensors:
        pixels, scorer = self._open(made_by["image"]), load_released_scorer(self.root / BASE)
        tensors = {
            "null_text_embeds": scorer.null[None],
            "input_ids.null": scorer.token_ids(" "),
        }
        prompts = self.planner.prompts(pixels)
        rows = torch.stack([*(pooled(prompt) for prompt in prompts.values()), scorer.null[0]])
        for i, asked in enumerate(made_by["prompts"]):
            found = self._scores(asked["prompt"], prompts) | {
                "input_ids": scorer.token_ids(asked["prompt"]),
                "text_embed": scorer.embed(asked["prompt"])[None],
                "pooled_plugins": rows,
            }
            tensors |= {f"prompt.{i}.{key}": value for key, value in found.items()}
        return tensors

    def _scores(self, prompt: str, prompts: Mapping[str, Tensor]) -> Tensors:
        raw = self.planner.scorer.scores(prompt, prompts)
        assert [*self.planner.plugins, NULL] == list(raw)
        final = decided(raw)
        return {
            "scores_raw": torch.tensor(list(raw.values())),
            "scores_final": torch.tensor(list(final.values())),
        }

    def _clip(self, _: str, made_by: Mapping[str, Any]) -> Tensors:
        features = self.backbone.image_features([self._open(made_by["image"], turn=True)])
        tokens = {
            f"tokens.{task}": self.plugins.get(task).tpb(features) for task in self.planner.plugins
        }
        return tokens | self.networks.clip()

    def _probe(self, name: str, made_by: Mapping[str, Any]) -> Tensors:
        """Single calls of the networks, on the photo as infer.py sees it without enlarging."""
        given = self._inputs(name)
        plugin: Plugin = self.plugins.get(made_by["task"])
        pixels = self._open(made_by["image"], turn=True)
        runner = ModelRunner(self.backbone, self.plugins, preset=replace(REFERENCE, min_side=0))
        image = torch.from_numpy(runner.fitted(pixels).astype(np.float32)) / 127.5 - 1
        cond = self.backbone.encode(image.permute(2, 0, 1)[None])
        tokens = plugin.tpb(self.backbone.image_features([pixels]))
        latents, context = given["probe_latents"], runner.attention.project(tokens)
        tensors = {"scb_cond": cond, "tokens": tokens, "probe_latents": latents}
        for t in made_by["t"]:
            time = torch.tensor([t])
            residuals = plugin.scb(cond, time, tokens).residuals
            tensors |= {f"scb_residual.{k}.t{t}": r for k, r in enumerate(residuals)}
            unet = self.backbone.unet
            tensors[f"unet_out.t{t}"] = denoise(unet, latents, time, context, residuals, None)
            alone = denoise(unet, latents, time, context, [], None)
            tensors[f"unet_out_no_residuals.t{t}"] = alone
        return tensors | {"vae_decode_of_probe": self.backbone.decode(latents)}

    def _scheduler(self, name: str, _: Mapping[str, Any]) -> Tensors:
        given = self._inputs(name)
        schedule = ModelRunner(self.backbone, self.plugins).noise_schedule
        tensors = dict(given)
        tensors["alphas_cumprod"] = torch.from_numpy(schedule.alphas_cumprod).float()
        for key in self.meta["files"][name]["tensors"]:
            kind, _, number = key.partition(".")
            if kind == "timesteps":
                tensors[key] = schedule.table(int(number)).timesteps
            elif kind == "add_noise":
                alpha = float(schedule.alphas_cumprod[int(number[1:])])
                tensors[key] = add_noise(given["x0"], given["noise"], alpha)
            elif kind == "fixed_eps_latents":
                outputs, state = given[f"fixed_eps.{number}"], SamplerState.start(given["noise"])
                samples = []
                for row, output in zip(schedule.table(len(outputs)).rows, outputs, strict=True):
                    state = update(state, output, row[None])
                    samples.append(state.x)
                tensors[key] = torch.stack(samples)
        return tensors

    def _inputs(self, name: str) -> Tensors:
        """Tensors that stand in meta.json's files as made up, and are inputs of a run."""
        made_up = re.compile(r"probe_latents|x0|noise|fixed_eps\.\d+")
        given = load_file(self.inputs / self.meta["files"][name]["path"])
        return {key: value for key, value in given.items() if made_up.fullmatch(key)}

    def _set_start(self, task: str, start: str) -> None:
        """A flag of infer.py; with us the plugin's manifest says it."""
        path = plugin_folder(self.root, BASE, task) / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "start": start}))

    def _open(self, name: str, turn: bool = False) -> Pixels:
        """infer.py turns a photo as its EXIF says; demo.py gets pixels, and turns nothing."""
        with Image.open(self.images / name) as image:
            upright = ImageOps.exif_transpose(image) if turn else image
            return np.asarray(upright.convert("RGB"))


def write(dump: Dump, name: str, out: Path) -> None:
    """out/<name>.safetensors, and the picture if the run has one."""
    entry, found = dump.meta["files"][name], dump.run(name)
    missing = sorted(set(entry["tensors"]) - set(found))
    if missing:
        raise LookupError(f"not made: {', '.join(missing)}")
    wanted = {key: found[key].clone().contiguous() for key in entry["tensors"]}
    save_file(wanted, out / f"{name}.safetensors")
    for picture in entry.get("png", ()):
        (out / picture).parent.mkdir(exist_ok=True)
        Image.fromarray(found["final_uint8"].numpy()).save(out / picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("tree", "images", "meta", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as store:
        dump = Dump(args.tree, args.images, args.meta, Path(store))
        failed = [name for name in dump.meta["files"] if not _tried(dump, name, args.out)]
    if failed:
        sys.exit(f"not written: {', '.join(failed)}")


def _tried(dump: Dump, name: str, out: Path) -> bool:
    """One run that fails must not cost the others."""
    try:
        write(dump, name, out)
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        return False
    print(f"wrote {name}", flush=True)
    return True


if __name__ == "__main__":
    main()
