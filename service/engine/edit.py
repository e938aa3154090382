"""What is asked of an engine: one photo to restore. No torch here, so that who asks starts fast."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from service.images import Pixels


@dataclass(frozen=True)
class Edit:
    """Restore `pixels` (H, W, 3) with `plugins` one after the other; steps None: their defaults.

    Of an edit which is resumed, `num_done` of the plugins have run already and made `resumed`, and
    `versions` are those that it has started with.
    """

    id: str
    pixels: Pixels
    plugins: tuple[str, ...]
    steps: int | None = None
    seed: int = 0
    num_done: int = 0
    resumed: Pixels | None = None
    num_previews: int = 0  # at most; evenly spread over the steps of all tasks
    versions: Mapping[str, str] = field(default_factory=dict)
