"""The order that a sentence states: its clauses, arranged as they are to be done.

Which task a clause speaks of is for the scorer to say, so a new plugin needs nothing here.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from service.selector import cues

Score = Callable[[Sequence[str]], Sequence[Mapping[str, float]]]


def stated_order(
    text: str, tasks: Sequence[str], score: Score, threshold: float
) -> tuple[str, ...]:
    """`tasks` in the order that the sentence states; as they are where it states none.

    score: similarities of each of several texts with every task.
    """
    clauses = arranged_clauses(text) if len(tasks) > 1 else []
    if len(clauses) < 2:
        return tuple(tasks)
    table = score(clauses)
    return tuple(sorted(tasks, key=lambda task: _place(task, table, threshold)))


def arranged_clauses(text: str) -> list[str]:
    """The clauses in the order they are to be done; empty if the sentence states no order."""
    plain = re.sub(r"\s+", " ", text.lower().replace("’", "'")).strip()
    plain = cues.IT_IS_DONE.sub(" then ", cues.ASIDE.sub(" ", plain))
    marked = _marked(plain)
    if marked or not cues.ANY.search(plain):
        return marked
    clauses: list[str] = []
    for sentence in cues.SENTENCE_END.split(plain):
        arranged = _arranged(sentence)
        if cues.STARTS_BEFORE_THAT.match(sentence):
            clauses = arranged + clauses
        else:
            clauses += arranged
    return sorted(clauses, key=_rank)


def clauses_of(text: str) -> list[str]:
    """The clauses as they stand."""
    plain = re.sub(r"\s+", " ", text.lower()).strip()
    return [clause for part in cues.SENTENCE_END.split(plain) for clause in _split(part)]


def _place(task: str, table: Sequence[Mapping[str, float]], threshold: float) -> int:
    """The first clause that asks for `task`; if none does, the one that comes closest."""
    asking = [place for place, scores in enumerate(table) if scores[task] >= threshold]
    return asking[0] if asking else max(range(len(table)), key=lambda place: table[place][task])


def _marked(text: str) -> list[str]:
    """Parts of a numbered or lettered list."""
    marks = list(cues.MARKER.finditer(text))
    if len(marks) < 2:
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [text[mark.end() : end].strip(" ,;.") for mark, end in zip(marks, ends, strict=True)]


def _arranged(sentence: str) -> list[str]:
    """Clauses of one sentence, "before" and "after" turned the way they say."""
    for name, pattern in cues.TURNS.items():
        found = pattern.match(sentence)
        if found and not ("after" in name and _states_no_order(sentence)):
            return _arranged(found["sooner"]) + _arranged(found["later"])
    return _split(sentence)


def _states_no_order(sentence: str) -> bool:
    """ "when I was in Rome" states no order; "when the fog is gone" does."""
    is_when = cues.WHEN.search(sentence) and not cues.OTHER_AFTER.search(sentence)
    return bool(is_when) and not cues.WHEN_DONE.search(sentence)


def _split(sentence: str) -> list[str]:
    """At commas and connectives; a cue that stands alone joins the clause it belongs to."""
    parts = [part.strip(" .!?") for part in cues.CLAUSE_END.split(sentence)]
    clauses: list[str] = []
    waiting = ""
    for part in (part for part in parts if part):
        waiting = f"{waiting} {part}".strip()
        if not _is_bare_cue(part):
            clauses.append(waiting)
            waiting = ""
    if waiting and clauses:
        clauses[-1] += f" {waiting}"
    return clauses


def _is_bare_cue(part: str) -> bool:
    rest = cues.FIRST.sub(" ", cues.LAST.sub(" ", part))
    return rest != part and not re.search(r"\w", cues.EMPTY_WORDS.sub(" ", rest))


def _rank(clause: str) -> int:
    """What is called first comes first, what is called last comes last; else as it stands."""
    if cues.LAST.search(clause):
        return 3
    if cues.FIRST.search(clause):
        return 0
    return 2 if cues.THIRD.search(clause) else 1
