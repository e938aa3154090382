"""What the load scenarios send: damaged photos of several sizes, by sentence or by plugin."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from loadtests.latency import SENTENCES
from loadtests.target import damaged_photo

BOUNDARY = "loadtest"
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Accept": "image/png"}


@dataclass(frozen=True)
class Wish:
    """One edit: the picture, and either a sentence or the name of a plugin."""

    image: bytes
    size: int
    instruction: str = ""
    plugin: str = ""

    @property
    def form(self) -> bytes:
        """The body of POST /v1/edit."""
        name, value = ("plugins", self.plugin) if self.plugin else ("instruction", self.instruction)
        text = f'form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        image = b'form-data; name="image"; filename="photo.png"\r\n'
        image += b"Content-Type: image/png\r\n\r\n" + self.image + b"\r\n"
        edge = f"--{BOUNDARY}\r\nContent-Disposition: ".encode()
        return edge + text + edge + image + f"--{BOUNDARY}--\r\n".encode()


@dataclass
class Mix:
    """Wishes at random, the same for the same seed. `sentences`: share that names no plugin."""

    sizes: Sequence[int] = (256,)
    tasks: Sequence[str] = ("derain",)
    sentences: float = 0.5
    seed: int = 0
    _photos: dict[tuple[str, int], bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        for task in self.tasks:
            for size in self.sizes:
                self._photos[task, size] = damaged_photo(task, size)

    def pick(self) -> Wish:
        task, size = self._random.choice(self.tasks), self._random.choice(self.sizes)
        photo = self._photos[task, size]
        if self._random.random() < self.sentences:
            return Wish(photo, size, instruction=SENTENCES[task])
        return Wish(photo, size, plugin=task)


def pauses(phases: Sequence[tuple[float, float]]) -> Callable[[float], float]:
    """Pacing by time: (seconds, pacing) again and again."""
    period = sum(seconds for seconds, _ in phases)

    def pacing_s(now: float) -> float:
        left = now % period
        for seconds, pacing in phases:
            if left < seconds:
                return pacing
            left -= seconds
        return phases[-1][1]

    return pacing_s
