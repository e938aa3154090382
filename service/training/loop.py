"""The training loop shared by base and plugins: steps, schedule, EMA, checkpoints, progress.

It knows nothing about what is trained: a model whose forward takes a batch and returns a loss.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from tqdm import tqdm

from service.errors import InvalidRequest
from service.training.ema import EMA
from service.training.precision import fastest_precision

Model = TypeVar("Model", bound=nn.Module)
CHECKPOINT = "checkpoint.pt"
Batch = tuple[Tensor, Tensor, Tensor]  # input and target (B, 3, H, W) in [-1, 1], task index (B,)


@dataclass(frozen=True)
class LoopSettings:
    """steps counts all resumed runs; lr falls linearly to zero over the last decay_share of it."""

    steps: int
    lr: float
    warmup: int = 200
    decay_share: float = 0.35
    ema_decay: float = 0.999
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    checkpoint_every: int = 500
    sheet_every: int = 1000
    mixed_precision: str = "auto"  # the fastest of this machine
    tensorboard: bool = False  # write curves to run_dir
    seed: int = 0


def learning_rate(step: int, settings: LoopSettings) -> float:
    """Warm up, hold, then fall linearly to zero at the last step."""
    rise = min(1.0, (step + 1) / settings.warmup)
    fall = (settings.steps - step) / (settings.decay_share * settings.steps)
    return settings.lr * min(rise, fall, 1.0)


def run(
    model: Model,
    open_batches: Callable[[int], Iterable[Batch]],
    settings: LoopSettings,
    run_dir: Path,
    draw_sheet: Callable[[Model, Path], None],
    stop_at: int | None = None,
) -> None:
    """Train `model` in place, resuming from run_dir/checkpoint.pt; it ends with the EMA weights.

    `open_batches(n)` gives an endless stream that differs for every n: a resumed run and every
    process of several see new data. `stop_at` ends this run before the schedule does, for another
    to go on with other data. Raises FloatingPointError if the loss is not finite.
    """
    accelerator = _accelerator(settings, run_dir)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        params, settings.lr, betas=(0.9, 0.99), weight_decay=settings.weight_decay, fused=True
    )
    model.to(accelerator.device)
    ema = EMA(model, settings.ema_decay)
    checkpoint = run_dir / CHECKPOINT
    step = _resume(checkpoint, model, optimizer, ema)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    last_step = settings.steps if stop_at is None else min(stop_at, settings.steps)
    progress = tqdm(total=settings.steps, initial=step, desc=run_dir.name, smoothing=0.02)
    mean_loss = 0.0
    stream = step * accelerator.num_processes + accelerator.process_index
    torch.manual_seed(settings.seed + stream)
    for batch in open_batches(stream):
        if step >= last_step:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        with accelerator.autocast():
            loss = prepared(*(part.to(accelerator.device) for part in batch))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value} at step {step}: lower the learning rate and resume from "
                f"{checkpoint}"
            )
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(params, settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        ema.update(model, step)
        step += 1
        if settings.tensorboard:
            rate = optimizer.param_groups[0]["lr"]
            accelerator.log({"loss": value, "lr": rate, "gradient_norm": float(norm)}, step=step)
        mean_loss = value if mean_loss == 0 else 0.99 * mean_loss + 0.01 * value
        progress.set_postfix(loss=f"{mean_loss:.4f}", refresh=False)
        progress.update()
        is_main = accelerator.is_main_process
        if is_main and (step % settings.checkpoint_every == 0 or step == last_step):
            _save(checkpoint, model, optimizer, ema, step)
        if is_main and step % settings.sheet_every == 0:
            _draw(draw_sheet, model, ema, run_dir / f"sheet_{step:06d}.png")
    progress.close()
    accelerator.end_training()
    ema.swap(model)
    if accelerator.is_main_process:
        draw_sheet(model, run_dir / "sheet_final.png")


def _accelerator(settings: LoopSettings, run_dir: Path) -> Accelerator:
    """One process or, below `accelerate launch`, one of several."""
    precision = settings.mixed_precision
    if precision == "auto":
        precision = fastest_precision()
    # Its state outlives a run, and refuses another precision: a plugin's and its stage's differ.
    AcceleratorState._reset_state()
    if not settings.tensorboard:
        return Accelerator(mixed_precision=precision)
    if find_spec("tensorboard") is None:
        raise InvalidRequest("curves need TensorBoard: pip install 'diffplugin-serve[tensorboard]'")
    accelerator = Accelerator(
        mixed_precision=precision, log_with="tensorboard", project_dir=run_dir
    )
    accelerator.init_trackers("tensorboard")
    return accelerator


def _draw(draw_sheet: Callable[[Model, Path], None], model: Model, ema: EMA, path: Path) -> None:
    ema.swap(model)
    draw_sheet(model, path)
    ema.swap(model)


def _save(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA, step: int
) -> None:
    """Write beside the old checkpoint first, so that a kill leaves one that can be read."""
    trainable = {k: p.detach() for k, p in model.named_parameters() if p.requires_grad}
    state = {
        "model": trainable,
        "optimizer": optimizer.state_dict(),
        "ema": ema.state_dict(),
        "step": step,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def _resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"], strict=False)
    optimizer.load_state_dict(state["optimizer"])
    ema.load_state_dict(state["ema"])
    return int(state["step"])
