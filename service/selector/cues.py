"""Words that state an order: "first", "before", "(b)", "once that is done". English, no tasks."""

import re

# "before I post it" says why, not what comes first.
NOT_ASIDE = r"(?!i\b|we\b|you\ (?:go|leave|send)|my\b|(?:post|print|send|upload)ing|christmas)"
BEFORE = (
    rf"(?:before|prior\ to|ahead\ of|precedes?|preceding)\b(?!\s*(?:that|this)\b)\s*+{NOT_ASIDE}"
)
AFTER = rf"""
    (?:(?:only|right|directly)\ )*
    (?:after|once|as\ soon\ as|when|upon|until|following|follows)\b
    (?!\s*(?:(?:that|this|which|wards?|all|he|she)\b|it\b(?!\ is|'s))) \s*+{NOT_ASIDE}
"""
POLITE = r"""
    ^(?:(?:please|pls|plz|kindly|(?:can|could|would)\ you|i'd\ like\ you\ to|and|but|so|hi|hey)
    [ ,]+)*
"""
HAPPENS = r"(?:but\ )?(?:(?:comes?|goes|happens)\ )?"
# "last week" is no place in a sequence.
NOT_TIME = r"(?!\ (?:week|year|summer|winter|night|month|holiday|trip|time|photo|picture|one|row))"


def pattern(text: str) -> re.Pattern[str]:
    """Blanks outside of classes only lay the pattern out; a blank that counts is escaped."""
    return re.compile(text, re.VERBOSE)


# Each names the part that is done sooner and the part that is done later.
TURNS = {
    "but first": pattern(
        r"""^(?P<later>.+?)[, ]+(?:but|though)\b[ ,]*(?:please\ )?(?:do\ )?
        (?:first|before\ that|beforehand|before\ this)\b(?P<sooner>.+)$"""
    ),
    "follow ... with": pattern(rf"{POLITE}follow\ (?P<sooner>.+?)\ (?:up\ )?with\ (?P<later>.+)$"),
    "before, ...": pattern(rf"{POLITE}{BEFORE}\s*(?:you\ )?(?P<later>[^,]+),\s*(?P<sooner>.+)$"),
    "after, ...": pattern(rf"{POLITE}{AFTER}\s*(?:you\ )?(?P<sooner>[^,]+),\s*(?P<later>.+)$"),
    "... after": pattern(rf"^(?P<later>.*?\S)[, ]+{HAPPENS}{AFTER}\s*(?P<sooner>.+)$"),
    "... before": pattern(rf"^(?P<sooner>.*?\S)[, ]+{HAPPENS}{BEFORE}\s*(?:you\ )?(?P<later>.+)$"),
}
STARTS_BEFORE_THAT = pattern(rf"{POLITE}(?:before\ (?:that|this)|beforehand)\b")

MARKER = pattern(
    r"""(?:^|(?<=[\s,;:.]))(?:step\s*)?
    (?:\(?(?:[1-9]|[a-d]|i{1,3})[).:]|\((?:[1-9]|[a-d]|i{1,3})\))(?=\s|[a-z])
    |\bstep\ (?:one|two|three|four|[1-9])\b:?"""
)
SENTENCE_END = pattern(r"(?<=[.!?;])\s+|\n+|\.\.\.")
CLAUSE_END = pattern(
    r"""\s*(?:,|;|:|->|=>|→|>|\+|&|\s-\s|\band\b|\bthen\b|\bfollowed\ by\b|\bnext\b(?!\ to\b)
    |\bafterwards?\b|\bafter\ (?:that|this|which|it)\b|\bplus\b|\bbut\b|\bas\ well\ as\b)\s*"""
)

FIRST = pattern(
    rf"""\b(?:first(?:ly)?{NOT_TIME}|initially|to\ (?:begin|start)\ with|priority|beforehand
    |(?:start|begin|kick\ off)(?:ning|ing)?\ (?:off\ )?(?:by|with|from)
    |at\ the\ (?:very\ )?(?:start|beginning|outset))\b"""
)
THIRD = pattern(r"\bthird(?:ly)?\b")
LAST = pattern(
    rf"""\b(?:last(?:ly)?{NOT_TIME}|finally|ultimately|finale?|at\ the\ (?:very\ )?end|in\ the\ end
    |(?:end|finish|conclude|close|wrap\ up)(?:ing)?\ (?:off\ )?(?:by|with)
    |to\ (?:finish|end|conclude))\b"""
)
ANY = pattern(
    rf"""\b(?:then|afterwards?|after|once|as\ soon\ as|when|before|prior\ to|next(?!\ to\b)|upon
    |followed\ by|follows?|later|thereafter|subsequently|second(?:ly)?|third(?:ly)?|precedes?
    |until|order|sequence|beforehand)\b|->|=>|→|\ >\ |{FIRST.pattern}|{LAST.pattern}"""
)
IT_IS_DONE = pattern(
    r"""\b(?:when|once|after|as\ soon\ as)\ (?:you|that|this|it|they)
    (?:'s|'re|\ is|\ are|\ has|\ have)?
    (?:\ been)?\ (?:done|finished|complete|completed|ready|through|settled)\b(?!\ \w+ing\b)"""
)
ASIDE = pattern(
    r"""\b(?:before|after|when|once)\ (?:i|we|my|(?:post|print|send|upload)ing|christmas)\b
    [^,.;]*"""
)
WHEN = pattern(r"\bwhen\b")
OTHER_AFTER = pattern(r"\b(?:after|once|as\ soon\ as|upon|until|following|follows)\b")
WHEN_DONE = pattern(
    r"""\bwhen\b.*\b(?:done|finished|completed?|over|gone|removed|cleared|out|fixed|away|through
    |ready)\b"""
)
EMPTY_WORDS = pattern(r"\b(?:as|a|the|step|of|all|it|do)\b")
