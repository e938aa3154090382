"""Typing errors: swaps, drops, doublings, neighbours on the keyboard, lost and extra spaces."""

import random

ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
SHORT = {
    "you": "u", "please": "plz", "the": "teh", "are": "r", "to": "2", "for": "4", "and": "n",
    "picture": "pic", "photo": "foto", "with": "w/", "because": "cuz", "thanks": "thx",
    "image": "img", "your": "ur", "want": "wanna", "it's": "its", "really": "rly",
}  # fmt: skip
SOUNDS = (
    ("ph", "f"), ("ck", "k"), ("ee", "ea"), ("ight", "ite"), ("ou", "u"), ("ea", "ee"), ("s", "z"),
    ("c", "k"), ("ei", "ie"), ("ie", "ei"), ("ll", "l"), ("rr", "r"), ("ai", "ay"), ("er", "ur"),
    ("tion", "shun"), ("x", "ks"), ("or", "er"), ("a", "e"), ("e", "a"), ("i", "e"), ("o", "u"),
)  # fmt: skip


def neighbour(letter: str, rng: random.Random) -> str:
    """A key beside `letter`'s."""
    for row in ROWS:
        at = row.find(letter)
        if at >= 0:
            return row[max(0, min(len(row) - 1, at + rng.choice([-1, 1])))]
    return letter


def misspell(word: str, rng: random.Random) -> str:
    """One slip inside `word`; its first letter mostly stays."""
    if len(word) < 3:
        return word
    at = rng.randrange(0 if rng.random() < 0.1 else 1, len(word))
    kind = rng.choice([0, 0, 0, 1, 1, 2, 3, 4, 5])
    if kind == 0 and at < len(word) - 1:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2:
        return word[:at] + word[at] * rng.choice([2, 2, 2, 3]) + word[at + 1 :]
    if kind == 3:
        return word[:at] + neighbour(word[at], rng) + word[at + 1 :]
    if kind == 4:
        return word[:at] + neighbour(word[at], rng) + word[at:]
    return misheard(word, rng)


def misheard(word: str, rng: random.Random) -> str:
    """Spelt as it sounds: "photo" -> "foto"."""
    fits = [(old, new) for old, new in SOUNDS if old in word[1:] or word.startswith(("ph",))]
    if not fits:
        return word
    old, new = rng.choice(fits)
    return (
        word.replace(old, new, 1)
        if word.startswith("ph")
        else (word[0] + word[1:].replace(old, new, 1))
    )


def mistype(text: str, rng: random.Random) -> str:
    """`text` as typed in a hurry: slips in a third to all of its words."""
    rate = rng.choice([0.12, 0.2, 0.3, 0.45, 0.6])
    words = []
    for word in text.split():
        if word.lower() in SHORT and rng.random() < 0.4:
            word = SHORT[word.lower()]
        elif rng.random() < rate:
            word = misspell(word, rng)
            if len(word) > 7 and rng.random() < 0.25:
                word = misspell(word, rng)
        words.append(word)
    text = " ".join(words)
    if rng.random() < 0.15 and len(words) > 2:
        at = rng.randrange(len(words) - 1)
        text = " ".join([*words[:at], words[at] + words[at + 1], *words[at + 2 :]])
    return decorate(text, rng)


def decorate(text: str, rng: random.Random) -> str:
    """Case, punctuation and emoji of hasty writing."""
    style = rng.random()
    if style < 0.3:
        text = text.lower()
    elif style < 0.42:
        text = text.upper()
    if rng.random() < 0.12:
        text += rng.choice(
            ["!!", "!!!", "...", "??", " :)", " lol", " plzz", " pls", " thx", "!1!"]
        )
    if rng.random() < 0.12:
        emoji = rng.choice("🙏😅🌧️❄️🌫️📷🐶🏠🚗🌊✨🥲👵🎸🦜🏰🌲🌃☔⛄")
        text = f"{emoji} {text}" if rng.random() < 0.5 else f"{text} {emoji}"
    return text.replace(" ", "  ", 1) if rng.random() < 0.05 else text
