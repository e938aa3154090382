"""One person's way to ask for one task: subjects filled in, a shape chosen, a phrase made."""

import random
import re

from service.training.instructions.bank import Bank
from service.training.instructions.wording import bare_noun, determined, gerund, participle

ADDED = ("snow", "rain")
# Actions of the form "verb {s}" can be put as "{s} verb-ed".
PLAIN_ACT = re.compile(r"^(\S+) \{s\}$")
SLOT = re.compile(r"\{(\w+)\}")


class Writer:
    """Phrases for labels, drawn from the bank. All randomness comes from `rng`."""

    def __init__(self, bank: Bank, rng: random.Random) -> None:
        self.bank = bank
        self.rng = rng
        self.about: str | None = None  # what the sentence at hand is about, once mentioned

    def turn_to_new_sentence(self, keeps_subject: bool) -> None:
        """Before each sentence: several phrases of one sentence mostly share their subject."""
        self.about = self._new_subject() if keeps_subject else None

    def thing(self) -> str:
        pick = self.rng.random()
        if pick < 0.05:  # a task's word in an object's name asks for nothing
            return self.rng.choice(self.bank.subjects["decoys"])
        words = self.bank.words if pick < 0.38 else self.bank.subjects["things"]
        return self.rng.choice(words)

    def subject(self) -> str:
        """ "the harbour", "my photo of the harbour", "this" ...; "it" when mentioned before."""
        if self.about is None:
            return self._new_subject()
        mention = self.about
        if not mention.startswith("it"):
            self.about = self.rng.choice(
                ["it", "it", "it", "it", mention, "the photo", "them", "the picture"]
            )
        return mention

    def _new_subject(self) -> str:
        pick = self.rng.random()
        if pick < 0.14:
            return self.rng.choice(self.bank.subjects["bare"])
        thing = self.thing()
        if self.rng.random() < 0.12:
            thing = f"{self.rng.choice(self.bank.subjects['adjectives'])} {thing}"
        article = self.rng.choices(
            ["the", "this", "my", "our", "that", "a", "her", "his"], [50, 12, 14, 6, 4, 6, 2, 2]
        )[0]
        if thing.split()[0] in ("my", "our", "the") or thing[0].isupper():
            article = ""
        photo = self.rng.choice(self.bank.subjects["photo"])
        if pick < 0.62:
            return f"{article} {thing}".strip()
        if pick < 0.74:
            mine = self.rng.choice(["my", "this", "the", "our"])
            preposition = self.rng.choice(["of", "of", "from", "showing", "with"])
            return f"{mine} {photo} {preposition} {article} {thing}".replace("  ", " ")
        if pick < 0.9:
            return f"{article or 'my'} {thing} {photo}"
        if pick < 0.95:
            return f"{article} {thing} in {self.rng.choice(['the', 'this', 'my'])} {photo}".strip()
        return f"this old {photo}" if pick < 0.965 else f"the {thing}s"

    def print(self) -> str:
        """A photo that can be torn."""
        text = self.print_noun()
        if self.rng.random() < 0.2:
            text = f"old {text}"
        return f"{self.rng.choice(['my', 'this', 'the', 'our', 'her'])} {text}"

    def print_noun(self) -> str:
        text = self.rng.choice(self.bank.subjects["prints"])
        if self.rng.random() < 0.35:
            text = f"{text} of the {self.thing()}"
        elif self.rng.random() < 0.15:
            text = f"{self.thing()} {text}"
        return text

    def fill(self, shape: str, **given: str) -> str:
        """`shape` with its slots filled, those in `given` as told."""
        return SLOT.sub(lambda slot: given.get(slot[1]) or self.slot(slot[1]), shape)

    def slot(self, name: str) -> str:
        if name == "s":
            return self.subject()
        if name == "o":
            photo = self.rng.choice(self.bank.subjects["photo"])
            return self.rng.choice([photo, f"{self.thing()} {photo}", self.thing()])
        if name == "p":
            return self.print()
        if name == "p0":
            return self.print_noun()
        if name == "w":
            return self.rng.choice(self.bank.subjects["people"])
        if name == "c":
            return self.rng.choice(self.bank.others["colors"])
        if name == "k":
            return str(self.rng.choice([2, 3, 5, 10, 16, 45, 64, 90, 128, 180, 300, 512, 1080]))
        if name == "d":
            return self.rng.choice(self.bank.others["verbs"])
        if name == "m":
            return self.mention()
        assert name == "x", f"unknown slot {{{name}}}"
        return self.thing()

    def mention(self) -> str:
        """A word of some task, to be named without asking for it."""
        lists = self.bank.labels[self.rng.choice(list(self.bank.labels))]
        words = self.rng.choice(
            [lists["nouns"], lists["keeps"], lists.get("things", []), lists["names"]]
        )
        return bare_noun(self.fill(self.rng.choice(words or lists["names"])))

    def target(self, label: str) -> str:
        """What the flaw sits on."""
        return self.print() if label == "restore" and self.rng.random() < 0.6 else self.subject()

    def noun(self, label: str) -> str:
        """The flaw to remove, or the weather to add, as a noun phrase."""
        if label in ADDED:
            return self.rng.choice(self.bank.labels[label]["things"])
        return determined(self.rng.choice(self.bank.labels[label]["nouns"]), self.rng)

    def imperative(self, label: str) -> str:
        """ "remove the rain from the harbour"."""
        phrases = self.bank.labels[label]
        if label in ADDED and self.rng.random() < 0.6:
            shape = self.rng.choice(self.bank.shapes["add"])
            return self.fill(shape, n=self.noun(label))
        by_noun = label not in ADDED and bool(phrases["nouns"])
        if by_noun and label not in ("lowlight", "face") and self.rng.random() < 0.55:
            shape = self.rng.choice(self.bank.shapes["remove"])
            return self.fill(shape, n=self.noun(label), s=self.target(label))
        return self.fill(self.rng.choice(phrases["acts"]))

    def wished(self, label: str) -> str:
        """ "I'd like the harbour without rain"."""
        if self.rng.random() < 0.25:
            return self.in_state(self.state(label))
        if label in ADDED:
            shape = self.rng.choice(self.bank.shapes["add_wish"])
            return self.fill(shape, n=self.noun(label))
        if not self.bank.labels[label]["nouns"] or label in ("face", "lowlight"):
            return self.passive(label)
        noun = self.noun(label)
        shape = self.rng.choice(self.bank.shapes["wish"])
        return self.fill(shape, n=noun, n0=bare_noun(noun), s=self.target(label))

    def passive(self, label: str) -> str:
        """ "I want the harbour brightened"."""
        acts = [
            match[1] for act in self.bank.labels[label]["acts"] if (match := PLAIN_ACT.match(act))
        ]
        if not acts:
            return self.asked(self.imperative(label))
        done = participle(self.rng.choice(acts))
        shape = self.rng.choice(self.bank.sentences["passives"])
        return self.fill(shape, d=done)

    def state(self, label: str) -> str:
        """How the photo is to be afterwards: "free of rain"."""
        return self.rng.choice(self.bank.labels[label]["states"])

    def in_state(self, state: str) -> str:
        """ "I'd like the harbour free of rain"."""
        return self.fill(self.rng.choice(self.bank.sentences["states"]), d=state)

    def name(self, label: str) -> str:
        """The task as a noun: "rain removal"."""
        return self.fill(self.rng.choice(self.bank.labels[label]["names"]))

    def doing(self, label: str) -> str:
        """The task as a gerund or noun."""
        if self.rng.random() < 0.45:
            return self.name(label)
        return gerund(self.imperative(label))

    def asked(self, imperative: str) -> str:
        """An imperative, made polite or blunt."""
        shape = self.rng.choice(self.bank.shapes["ask"])
        return shape.replace("{v}", imperative).replace("{g}", gerund(imperative))

    def sign(self, label: str) -> str:
        """The flaw described, mostly with a plea."""
        sign = self.fill(self.rng.choice(self.bank.labels[label]["signs"]))
        looks = self.bank.labels[label]["looks"]
        if looks and self.rng.random() < 0.25:
            sign = f"{self.subject()} {self.rng.choice(['is', 'looks', 'came out', 'turned out'])} "
            sign += self.rng.choice(looks)
        if label in ADDED or self.rng.random() < 0.3:
            return sign
        glue = self.rng.choice([". ", ", ", "; ", "... ", " - ", ". "])
        return sign + glue + self.rng.choice(self.bank.shapes["plea"])
