"""English inflection and small surface changes, good enough for short commands."""

import random
import re

GERUNDS = {
    "get": "getting", "put": "putting", "cut": "cutting", "let": "letting", "strip": "stripping",
    "rid": "ridding", "scrub": "scrubbing", "lie": "lying", "run": "running", "swap": "swapping",
    "drop": "dropping", "zap": "zapping", "free": "freeing", "stop": "stopping", "undo": "undoing",
    "edit": "editing", "filter": "filtering", "correct": "correcting", "clear": "clearing",
    "deblur": "deblurring", "de-blur": "de-blurring", "unblur": "unblurring", "dim": "dimming",
    "un-blur": "un-blurring", "defog": "defogging", "de-fog": "de-fogging", "sit": "sitting",
    "wrap": "wrapping", "blur": "blurring", "crop": "cropping", "trim": "trimming",
    "brighten": "brightening", "sharpen": "sharpening", "lighten": "lightening",
    "refocus": "refocusing", "flip": "flipping", "set": "setting", "bump": "bumping",
}  # fmt: skip
PARTICIPLES = {
    "undo": "undone", "get": "gotten", "put": "put", "let": "let", "make": "made", "cut": "cut",
    "light": "lit", "bring": "brought", "take": "taken", "give": "given", "rid": "rid",
}  # fmt: skip


def gerund(phrase: str) -> str:
    """ "remove the rain" -> "removing the rain"."""
    verb, _, rest = phrase.partition(" ")
    word = verb.lower()
    if word in GERUNDS:
        inflected = GERUNDS[word]
    elif word.endswith("e") and not word.endswith(("ee", "oe", "ye")):
        inflected = word[:-1] + "ing"
    else:
        inflected = word + "ing"
    return f"{inflected} {rest}".strip()


def participle(verb: str) -> str:
    """ "remove" -> "removed"."""
    word = verb.lower()
    if word in PARTICIPLES:
        return PARTICIPLES[word]
    if word.endswith("e"):
        return word + "d"
    doubled = GERUNDS.get(word, word + "ing")[:-3]
    if doubled.endswith(("bb", "rr", "gg", "pp", "mm")):
        return doubled + "ed"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ied"
    return word + "ed"


def bare_noun(noun: str) -> str:
    """Without its article: "the fog bank" -> "fog bank"."""
    return re.sub(r"^(the|a|an|some|any|all) ", "", noun)


def determined(noun: str, rng: random.Random) -> str:
    """The noun with one of the determiners it can have."""
    if noun != bare_noun(noun) or " of " in noun and noun.startswith("wrinkles"):
        return noun
    return (
        rng.choices(
            ["", "the ", "all ", "all the ", "this ", "any ", "that awful ", "its "],
            [40, 40, 4, 6, 4, 2, 1, 3],
        )[0]
        + noun
    )


def as_typed(text: str, rng: random.Random) -> str:
    """Capitals and full stops as different people leave them."""
    text = re.sub(r"\s+", " ", text).strip()
    style = rng.random()
    if style < 0.5:
        text = text[:1].upper() + text[1:]
        return text if text[-1:] in ".!?…" else text + rng.choice([".", ".", ".", "!", ""])
    if style < 0.62:
        return text[:1].upper() + text[1:]
    if style < 0.66:
        return text.upper()
    return text.lower() if rng.random() < 0.5 else text
