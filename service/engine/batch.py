"""The rows of one latent shape, stacked for as long as the same edits run together."""

from collections.abc import Sequence

import torch
from torch import Tensor

from service.engine.sampling import SamplerState
from service.engine.trajectory import Trajectory


class Batch:
    """Owns its members' sampler state until unstack() gives it back to them."""

    def __init__(self, members: Sequence[Trajectory]) -> None:
        for member in members:
            member.current.mark.wait()
        rows = [member.current for member in members]
        self.members, self._rows = tuple(members), rows
        self._counts = [len(row.shifts) for row in rows]
        self._device = rows[0].context.device
        self.state = SamplerState(*map(torch.cat, zip(*(r.state for r in rows), strict=True)))
        deep = [r.deep for r in rows if r.deep is not None]
        self.deep = torch.cat(deep) if len(deep) == len(rows) else None  # of the feature cache
        self.context = torch.cat([r.context.expand(len(r.shifts), -1, -1) for r in rows])

    def renoise(self) -> None:
        """Members whose step begins from the noised condition get that as their sample."""
        first = 0
        for member, count in zip(self.members, self._counts, strict=True):
            if (x := member.current.renoised.get(member.step)) is not None:
                self.state.x[first : first + count] = x
            first += count

    def complement(self) -> Tensor:
        """Each row's at its own step (B, E, h, w)."""
        return torch.cat([m.current.complements.at(m.step) for m in self.members])

    def table_rows(self) -> Tensor:
        """Each row's sampler coefficients and timestep (B, 11)."""
        pairs = zip(self.members, self._counts, strict=True)
        rows = [m.current.table.packed_rows[m.step] for m, count in pairs for _ in range(count)]
        return torch.stack(rows).to(self._device, non_blocking=True)

    def estimate_of(self, trajectory: Trajectory) -> Tensor | None:
        """A member's clean estimate (V, C, h, w) of the last step; None if it is no member."""
        parts = torch.split(self.state.m1, self._counts)
        pairs = zip(self.members, parts, strict=True)
        return next((part for member, part in pairs if member is trajectory), None)

    def unstack(self) -> None:
        """Give every member a state of its own."""
        parts = zip(*(torch.split(tensor, self._counts) for tensor in self.state), strict=True)
        for row, part in zip(self._rows, parts, strict=True):
            row.state = SamplerState(*(tensor.clone() for tensor in part))
        if self.deep is not None:
            for row, deep in zip(self._rows, torch.split(self.deep, self._counts), strict=True):
                row.deep = deep
