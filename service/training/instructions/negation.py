"""Sentences that say what to leave alone, beside a task or on their own."""

from service.training.instructions.several import pick_labels
from service.training.instructions.wording import gerund
from service.training.instructions.writer import Writer

KEEPABLE = (
    "restore", "derain", "desnow", "dehaze", "lowlight",
    "demoire", "highlight", "deblur", "colorize",
)  # fmt: skip


def task_but_not(writer: Writer, wanted: tuple[str, ...], unwanted: str) -> str:
    """The tasks `wanted`, and `unwanted` excluded by name or its flaw kept."""
    phrase = " and ".join(writer.imperative(label) for label in wanted)
    name = " and ".join(writer.name(label) for label in wanted)
    if unwanted in KEEPABLE and writer.rng.random() < 0.48:
        shape = writer.rng.choice(writer.bank.sentences["beside_kept"])
        return _asked(writer, shape, v=phrase, k=_kept(writer, unwanted))
    shape = writer.rng.choice(writer.bank.sentences["beside_task"])
    return _asked(
        writer, shape, v=phrase, t=name, a=_avoided(writer, unwanted), u=writer.imperative(unwanted)
    )


def nothing_wanted(writer: Writer) -> str:
    """Only what is not to be done."""
    first, second = pick_labels(writer, 2)
    shape = writer.rng.choice(writer.bank.sentences["alone"])
    keepable = [label for label in (first, second) if label in KEEPABLE] or ["dehaze"]
    unwanted, also = writer.imperative(first), writer.imperative(second)
    return writer.fill(
        shape, a=_avoided(writer, first), a2=_avoided(writer, second), u=unwanted, u2=also,
        g=gerund(unwanted), k=_kept(writer, keepable[0]), k2=_kept(writer, keepable[-1]),
    )  # fmt: skip


def _avoided(writer: Writer, label: str) -> str:
    if writer.rng.random() < 0.25:
        return gerund(writer.imperative(label))
    return writer.rng.choice(writer.bank.labels[label]["avoid"])


def _kept(writer: Writer, label: str) -> str:
    return writer.rng.choice(writer.bank.labels[label]["keeps"])


def _asked(writer: Writer, shape: str, **given: str) -> str:
    text = writer.fill(shape, **given)
    return (
        writer.rng.choice(["please ", "could you ", "can you "]) + text
        if writer.rng.random() < 0.2
        else text
    )
