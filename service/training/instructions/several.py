"""Sentences for several tasks at once, and for a task beside something that no task does."""

from service.training.instructions.writer import ADDED, Writer

CANONICAL = (
    "restore", "derain", "desnow", "dehaze", "lowlight", "demoire",
    "highlight", "deblur", "face", "colorize", "snow", "rain",
)  # fmt: skip
CONTRADICTIONS = ({"derain", "rain"}, {"desnow", "snow"})


def canonical(labels: set[str]) -> tuple[str, ...]:
    return tuple(label for label in CANONICAL if label in labels)


def pick_labels(writer: Writer, count: int) -> tuple[str, ...]:
    """`count` different labels in random order that do not undo each other."""
    while True:
        labels = tuple(writer.rng.sample(CANONICAL, count))
        if not any(pair <= set(labels) for pair in CONTRADICTIONS):
            return labels


def one_request(writer: Writer, label: str) -> str:
    """Any way to ask for one task."""
    pick = writer.rng.random()
    if pick < 0.43:
        return writer.asked(writer.imperative(label))
    if pick < 0.58:
        return writer.sign(label)
    if pick < 0.75:
        return writer.wished(label)
    if pick < 0.87:
        shape = writer.rng.choice(writer.bank.shapes["name_ask"])
        return writer.fill(shape, t=writer.name(label), s=writer.target(label))
    if pick < 0.95:
        return writer.fill(writer.rng.choice(writer.bank.wishes[label]))
    return (
        f"{writer.rng.choice(writer.bank.shapes['scene'])} {writer.asked(writer.imperative(label))}"
    )


def several_requests(writer: Writer, labels: tuple[str, ...]) -> str:
    """All of `labels`, in no stated order."""
    rng = writer.rng
    removable = [label for label in labels if label not in (*ADDED, "colorize", "face")]
    if set(labels) <= set(ADDED):
        nouns = _listed([writer.noun(label) for label in labels], writer)
        return writer.fill(
            rng.choice(writer.bank.shapes["add"] + writer.bank.sentences["both"]), n=nouns
        )
    looking = [
        label for label in labels if writer.bank.labels[label]["looks"] and label != "colorize"
    ]
    pick = rng.random()
    if len(removable) == len(labels) and "lowlight" not in labels and pick < 0.28:
        return _nouns_together(writer, labels)
    if len(looking) == len(labels) and pick < 0.5:
        return _looks_together(writer, labels)
    if pick < 0.6:
        return _names_together(writer, labels)
    if pick < 0.68:
        return writer.in_state(_listed([writer.state(label) for label in labels], writer))
    if pick < 0.75 and len(labels) == 2:
        tail = rng.choice([writer.imperative, writer.doing])(labels[1])
        return f"{writer.sign(labels[0])} {rng.choice(['Also', 'And', 'Besides,', 'Then'])} {tail}"
    text = writer.asked(writer.imperative(labels[0]))
    for label in labels[1:]:
        text = text.rstrip("?!.") + rng.choice(writer.bank.shapes["join"]) + _next(writer, label)
    return text


def _next(writer: Writer, label: str) -> str:
    if writer.rng.random() < 0.75:
        return writer.imperative(label)
    return writer.rng.choice([writer.wished, writer.sign, writer.name])(label)


def _listed(parts: list[str], writer: Writer) -> str:
    last = writer.rng.choice(
        [" and ", " and ", " plus ", ", ", " as well as ", " & ", " + ", " along with "]
    )
    return ", ".join(parts[:-1]) + last + parts[-1]


def _nouns_together(writer: Writer, labels: tuple[str, ...]) -> str:
    nouns = _listed([writer.noun(label) for label in labels], writer)
    if writer.rng.random() < 0.2:
        nouns = f"both {nouns}" if len(labels) == 2 else nouns
    where = writer.target(writer.rng.choice(labels))
    if writer.rng.random() < 0.25:
        return f"{where}: {nouns}. {writer.rng.choice(writer.bank.shapes['list_fix'])}"
    if writer.rng.random() < 0.35:
        shape = writer.rng.choice(writer.bank.shapes["wish"])
        return writer.fill(shape, n=nouns, n0=nouns, s=where)
    shape = writer.rng.choice(writer.bank.shapes["remove"])
    return writer.asked(writer.fill(shape, n=nouns, s=where))


def _looks_together(writer: Writer, labels: tuple[str, ...]) -> str:
    looks = _listed(
        [writer.rng.choice(writer.bank.labels[label]["looks"]) for label in labels], writer
    )
    fix = writer.rng.choice(writer.bank.shapes["list_fix"] + writer.bank.shapes["plea"])
    form = writer.rng.choice(writer.bank.sentences["several_looks"])
    return writer.fill(form, looks=looks, fix=fix)


def _names_together(writer: Writer, labels: tuple[str, ...]) -> str:
    names = _listed([writer.name(label) for label in labels], writer)
    shape = writer.rng.choice(writer.bank.shapes["name_ask"])
    return writer.fill(shape, t=names)


def other_request(writer: Writer, topic: str) -> str:
    """Something that no task does."""
    text = writer.fill(writer.rng.choice(writer.bank.others[topic]))
    plain = ("question", "trivia", "opinion", "chat", "foreign", "nonsense")
    return text if topic in plain or writer.rng.random() < 0.35 else writer.asked(text)


def task_beside_other(writer: Writer, label: str, topic: str) -> str:
    """A task joined with something that no task does; mostly the task comes first."""
    other = writer.fill(writer.rng.choice(writer.bank.others[topic]))
    task = (
        _next(writer, label)
        if writer.rng.random() < 0.3
        else writer.asked(writer.imperative(label))
    )
    join = writer.rng.choice(writer.bank.sentences["tail_joins"])
    if topic == "question":
        return f"{task}{writer.rng.choice(['. ', '; ', '. And ', ', and also: '])}{other}"
    if writer.rng.random() < 0.18:
        return f"{other}{join}{task}"
    return f"{task.rstrip('?!.')}{join}{other}"
