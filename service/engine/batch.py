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
        self.members = tuple(members)
        self._counts = [len(row.shifts) for row in rows]
        self._device = rows[0].context.device
        self.state = SamplerState(*map(torch.cat, zip(*(r.state for r in rows), strict=True)))
        self.context = torch.cat([r.context.expand(len(r.shifts), -1, -1) for r in rows])

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
        for member, part in zip(self.members, parts, strict=True):
            if member.prepared is not None:
                member.prepared.state = SamplerState(*(tensor.clone() for tensor in part))
