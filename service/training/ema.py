"""Exponential moving average of trainable weights, with a short warm-up."""

import torch
from torch import Tensor, nn


class EMA:
    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {k: p.detach().clone() for k, p in _trainable(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        params = _trainable(model)
        torch._foreach_lerp_(
            list(self.shadow.values()), [params[k].detach() for k in self.shadow], 1 - decay
        )

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the weights of `model` and the average; call again to undo."""
        for key, param in _trainable(model).items():
            held = param.detach().clone()
            param.copy_(self.shadow[key])
            self.shadow[key] = held

    def state_dict(self) -> dict[str, Tensor]:
        return self.shadow

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for key, value in state.items():
            self.shadow[key].copy_(value)


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {k: p for k, p in model.named_parameters() if p.requires_grad}
