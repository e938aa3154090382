"""Train a plugin's output stage on what its frozen networks really restore (docs/nano.md).

The base and the plugin are run once over a set of crops, as the engine runs them; the stage, which
is far cheaper, then sees these pairs many times.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm

from service.models.output_stage import OutputStage
from service.models.tone import SEEN, Tone, transform
from service.training import loop
from service.training.degradations import GENERATION
from service.training.first_plugin import HalfUndone
from service.training.objective import detail_loss
from service.training.restorer import Restorer

JUDGED = 16  # side at which a tone is compared with the truth: only colours are left
Pairs = dict[str, Tensor]  # image and target uint8, restored float16, all (N, 3, S, S); task (N,)
Batches = Callable[[int], HalfUndone]


@dataclass(frozen=True)
class StageSettings:
    """num_pairs crops are restored once with num_steps, without shifted copies: many count more.

    tone_steps train the tone alone, on reduced copies of num_tone_pairs whole photos.
    """

    steps: int = 1000
    num_pairs: int = 800
    tone_steps: int = 1000
    num_tone_pairs: int = 800
    batch_size: int = 4
    lr: float = 1e-3
    num_steps: int = 1
    num_shifts: int = 2
    seed: int = 0


class StageTrainer(nn.Module):
    """The stage as the training loop wants it; the networks before it stay as they are."""

    def __init__(self, restorer: Restorer, stage: OutputStage, settings: StageSettings) -> None:
        super().__init__()
        self.restorer, self.stage, self.settings = restorer.requires_grad_(False), stage, settings

    def forward(self, seen: Tensor, targets: Tensor, tasks: Tensor) -> Tensor:
        """seen (B, 6 or 9, H, W): input, restored, noise; targets (B, 3, H, W)."""
        return detail_loss(self.stage(*torch.split(seen, 3, dim=1)), targets)

    def restore(self, images: Tensor, tasks: Tensor, steps: int) -> Tensor:
        """What the engine does with this plugin, for the sample sheets."""
        restored = self.restorer.restore(images, tasks, steps, self.settings.num_shifts)
        with torch.no_grad():
            noise = torch.randn_like(images) if self.stage.config.noise else None
            refined: Tensor = self.stage(images, restored, noise)
        return refined


def train_stage(
    restorer: Restorer,
    stage: OutputStage,
    open_batches: Batches,
    open_wholes: Batches,
    names: list[str],
    settings: StageSettings,
    run_dir: Path,
    draw_sheet: Callable[[StageTrainer, Path], None],
) -> OutputStage:
    """Train or resume; the batches are (input, target, index in names), as for the plugin.

    `open_batches` gives crops, `open_wholes` whole photos: the tone depends on what else is there.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with PartialState().main_process_first():  # the others read what it writes
        pairs = restored_pairs(restorer, open_batches(0), settings, run_dir / "pairs.safetensors")
        if settings.tone_steps:
            _learn_tone(restorer, stage.tone, open_wholes, settings, run_dir)
    stage.tone.requires_grad_(False)  # a crop would teach it wrongly
    model = StageTrainer(restorer, stage, settings)

    def open_crops(stream: int) -> DataLoader[tuple[Tensor, Tensor, int]]:
        crops = RestoredDataset(pairs, names, (settings.seed, stream))
        return DataLoader(crops, settings.batch_size)

    loop_settings = loop.LoopSettings(
        settings.steps,
        settings.lr,
        warmup=50,
        decay_share=0.6,
        ema_decay=0.995,
        mixed_precision="no",
        seed=settings.seed,
    )
    loop.run(model, open_crops, loop_settings, run_dir, draw_sheet)
    return stage


def _learn_tone(
    restorer: Restorer, tone: Tone, open_wholes: Batches, settings: StageSettings, run_dir: Path
) -> None:
    """Train the tone, or read what an earlier run learned."""
    path = run_dir / "tone.safetensors"
    if not path.exists():
        wholes = whole_copies(restorer, open_wholes(0), settings, run_dir / "wholes.safetensors")
        _train_tone(tone, wholes, settings)
        save_file(tone.state_dict(), path)
    tone.load_state_dict(load_file(path))


def _train_tone(tone: Tone, wholes: Pairs, settings: StageSettings) -> None:
    """The tone alone, on copies so small that it sees every photo many times within minutes."""
    optimizer = torch.optim.AdamW(tone.parameters(), lr=2e-3, weight_decay=0.5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.tone_steps)
    generator = torch.Generator().manual_seed(settings.seed)
    for _ in tqdm(range(settings.tone_steps), desc="tone"):
        rows = torch.randint(len(wholes["target"]), (32,), generator=generator)
        batch = {name: column[rows].float() for name, column in wholes.items()}
        grid = tone.coefficients(batch["image"], batch["restored"])
        grid = F.interpolate(grid, (JUDGED, JUDGED), mode="bilinear")
        toned = transform(grid, _reduced(batch["image"]), _reduced(batch["restored"]))
        optimizer.zero_grad()
        F.l1_loss(toned, _reduced(batch["target"])).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def _reduced(images: Tensor, size: int = JUDGED) -> Tensor:
    return F.interpolate(images, (size, size), mode="area")


def whole_copies(
    restorer: Restorer,
    batches: HalfUndone,
    settings: StageSettings,
    path: Path,
) -> Pairs:
    """image, restored, target (N, 3, SEEN, SEEN) of whole photos; an earlier run's if enough."""
    if (found := _enough(path, settings.num_tone_pairs)) is not None:
        return found
    parts = [
        [_reduced(part, SEEN).half().cpu() for part in (images, restored, targets)]
        for images, targets, restored, _ in _restored(
            restorer, batches, settings.num_tone_pairs, settings.num_steps, "restored photos"
        )
    ]
    return _save(parts, ("image", "restored", "target"), path)


def restored_pairs(
    restorer: Restorer,
    batches: HalfUndone,
    settings: StageSettings,
    path: Path,
) -> Pairs:
    """Pairs with what the plugin makes of them; those of an earlier run if `path` has enough."""
    if (found := _enough(path, settings.num_pairs)) is not None:
        return found
    parts = [
        [_to_bytes(images), _to_bytes(targets), restored.half().cpu(), tasks]
        for images, targets, restored, tasks in _restored(
            restorer, batches, settings.num_pairs, settings.num_steps, "restored pairs"
        )
    ]
    return _save(parts, ("image", "target", "restored", "task"), path)


@torch.no_grad()
def _restored(
    restorer: Restorer,
    batches: HalfUndone,
    num: int,
    num_steps: int,
    title: str,
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Batches of at least `num` rows: image, target, what the plugin makes of the image, task."""
    device = next(restorer.parameters()).device
    num_batches = -(-num // (batches.batch_size or 1))
    for images, targets, tasks in tqdm(islice(batches, num_batches), total=num_batches, desc=title):
        yield (
            images,
            targets,
            restorer.restore(images.to(device), tasks.to(device), num_steps),
            tasks,
        )


def _enough(path: Path, num: int) -> Pairs | None:
    if not path.exists():
        return None
    pairs: Pairs = load_file(path)
    return pairs if len(pairs["target"]) >= num else None


def _save(parts: list[list[Tensor]], names: tuple[str, ...], path: Path) -> Pairs:
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    pairs = dict(zip(names, columns, strict=True))
    save_file(pairs, path)
    return pairs


class RestoredDataset(IterableDataset[tuple[Tensor, Tensor, int]]):
    """The pairs in random order without end, mirrored by chance: (6, S, S), target, task.

    Of a generation task the target is made anew each time, and its noise comes along: (9, S, S).
    """

    def __init__(self, pairs: Pairs, names: list[str], seed: tuple[int, ...]) -> None:
        self.pairs, self.names, self.seed = pairs, names, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        rng = np.random.default_rng(self.seed)
        while True:
            for k in rng.permutation(len(self.pairs["task"])):
                image, target = (_to_unit(self.pairs[name][k]) for name in ("image", "target"))
                seen = torch.cat([image, self.pairs["restored"][k].float()])
                if rng.random() < 0.5:
                    seen, target = seen.flip(-1), target.flip(-1)
                task = int(self.pairs["task"][k])
                if make := GENERATION.get(self.names[task]):
                    noise = rng.standard_normal((*target.shape[1:], 3), dtype=np.float32)
                    clean = (seen[:3].permute(1, 2, 0).numpy() + 1) / 2
                    made = make(np.asarray(clean, np.float32), noise)
                    target = torch.from_numpy(made).permute(2, 0, 1).clamp(0, 1) * 2 - 1
                    seen = torch.cat([seen, torch.from_numpy(noise).permute(2, 0, 1)])
                yield seen, target, task


def _to_bytes(images: Tensor) -> Tensor:
    """[-1, 1] -> 8 bits."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _to_unit(images: Tensor) -> Tensor:
    """8 bits -> [-1, 1]."""
    return images.float() / 127.5 - 1
