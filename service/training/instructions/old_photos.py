"""The compound wish: an old photo is to be restored as a whole, or only in part."""

from service.training.instructions.several import canonical
from service.training.instructions.writer import Writer

OTHER_TASKS = ("lowlight", "deblur", "highlight", "dehaze", "snow", "rain")


def old_photo_request(writer: Writer) -> tuple[str, set[str]]:
    """A sentence about an old photo, and the labels that it asks for."""
    pick = writer.rng.random()
    if pick < 0.1:
        return _damage_only(writer), {"restore"}
    if pick < 0.2:
        return _one_other_task(writer)
    text, labels = _whole(writer, may_ask_colour=pick < 0.82), {"restore", "colorize"}
    if pick < 0.42:
        text, labels = text.rstrip("?.!") + _tail(writer, "withface"), labels | {"face"}
    if pick > 0.82:
        text, labels = text.rstrip("?.!") + _tail(writer, "nocolour"), labels - {"colorize"}
    elif pick > 0.77:
        task = writer.rng.choice(OTHER_TASKS)
        text = (
            text.rstrip("?.!")
            + writer.rng.choice([" and ", ". Also ", ", and "])
            + writer.imperative(task)
        )
        labels = labels | {task}
    elif pick > 0.71:
        topic = writer.rng.choice(["assist", "insert", "style", "crop", "recolor"])
        text = (
            text.rstrip("?.!") + " and " + writer.fill(writer.rng.choice(writer.bank.others[topic]))
        )
    return text, labels


def old_photo(writer: Writer) -> str:
    """ "this vintage photograph of the baker"."""
    rng = writer.rng
    owner = rng.choice(writer.bank.hints["owners"])
    whom = rng.choice(
        [f"the {writer.thing()}", writer.slot("w"), f"a {writer.thing()}", f"my {writer.thing()}"]
    )
    link = rng.choice([" of ", " of ", " showing ", " with "])
    tail = f"{link}{whom}" if rng.random() < 0.5 else ""
    if rng.random() < 0.2:
        return f"{owner} {rng.choice(writer.bank.hints['oldkinds'])}{tail}"
    kind = rng.choice(writer.bank.hints["oldnouns"])
    if rng.random() < 0.15:
        kind = f"{writer.thing()} {kind}"
    faded = rng.choice(writer.bank.hints["faded"]) + " " if rng.random() < 0.1 else ""
    return f"{owner} {faded}{rng.choice(writer.bank.hints['old'])} {kind}{tail}"


def _whole(writer: Writer, may_ask_colour: bool) -> str:
    if writer.rng.random() < 0.62:
        act = writer.fill(writer.rng.choice(writer.bank.hints["revive"]), p=old_photo(writer))
        if may_ask_colour and writer.rng.random() < 0.15:
            act += " " + writer.rng.choice(writer.bank.hints["coloured"])
        return writer.asked(act)
    return writer.fill(writer.rng.choice(writer.bank.hints["revival"]), p=old_photo(writer))


def _tail(writer: Writer, name: str) -> str:
    return writer.fill(writer.rng.choice(writer.bank.hints[name]))


def _damage_only(writer: Writer) -> str:
    old = old_photo(writer)
    labels = writer.bank.labels["restore"]
    if writer.rng.random() < 0.5:
        shape = writer.rng.choice(writer.bank.shapes["remove"])
        return writer.asked(writer.fill(shape, n=writer.noun("restore"), s=old))
    acts = [act for act in labels["acts"] + labels["signs"] if "{p}" in act]
    return writer.fill(writer.rng.choice(acts), p=old)


def _one_other_task(writer: Writer) -> tuple[str, set[str]]:
    """An old photo may also just be too dark."""
    if writer.rng.random() < 0.3:
        shape = writer.rng.choice(writer.bank.sentences["face_only"])
        return writer.fill(shape, p=old_photo(writer)), {"face"}
    label = writer.rng.choice(
        ["lowlight", "deblur", "colorize", "colorize", "highlight", "demoire"]
    )
    acts = [act for act in writer.bank.labels[label]["acts"] if "{s}" in act]
    text = writer.asked(writer.fill(writer.rng.choice(acts), s=old_photo(writer)))
    return text, set(canonical({label}))
