"""Whether two prompts ask the same in other letters: a pure decision, which returns its reason.

How near two texts are says little: a question and its negation are 0.83 to 0.9997 alike to nine encoders
(GPTCache issue 694). So nothing here is a threshold. What may differ is on a list (politeness, contractions,
curly quotes, some ways to begin), and whatever else differs is a reason: a number, a
negation, a name, a unit, a language, a date, a currency, code, a comparison, a quantity, an order, or any
other word.

Only the instruction may differ, which is the first sentence or line. What follows it is what the instruction
is about, and is the same to the letter; so is all of a prompt that is about a text without setting it apart
("Translate please into French").
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final, NamedTuple

from or_cache_magic.display.escape import one_line
from or_cache_magic.explain.difference import GONE, NEW, words_changed


def why_not_similar(a: str, b: str) -> str | None:
    """Return why the answer to one prompt may not answer another; None where only what is harmless differs.

    Args:
        a: A prompt.
        b: Another. Which is which makes no difference to the decision.
    """
    if a == b:
        return None
    one, other = form_of(a), form_of(b)
    return None if one == other else _reason(one, other)


def likeness(a: str, b: str) -> float:
    """Return which part of the letters of two texts is the same, in order, from 0 to 1.

    Twice the longest common subsequence over the letters of both: rapidfuzz's ``fuzz.ratio`` / 100, by
    Hyyrö's bit vectors in integers of any length.
    """
    if not a or not b:
        return float(a == b)
    places: dict[str, int] = {}
    for at, letter in enumerate(a):
        places[letter] = places.get(letter, 0) | 1 << at
    every = left = (1 << len(a)) - 1
    for letter in b:
        found = left & places.get(letter, 0)
        left = ((left + found) | (left - found)) & every
    return 2 * (len(a) - left.bit_count()) / (len(a) + len(b))


class Form(NamedTuple):
    """A prompt in the form in which two that ask the same are equal.

    Attributes:
        instruction: Its first sentence or line, without what may differ.
        quoted: What it quotes, which a private character stands for.
        rest: What follows, as it stands.
    """

    instruction: str
    quoted: tuple[str, ...] = ()
    rest: str = ""


# How a prompt is read

_COUNTS: Final = r"(?:\d+|two|three|four|five|six|seven|eight|nine|ten)"
_ASKED_FOR: Final = (
    r"(?:explain|describe|summari[sz]e|list|write|give|show|tell|compare|define|draft|suggest|recommend|provide"
    r"|outline|generate|compose|translate|classify|extract|name)"
)
_SURELY_ASKED_FOR: Final = (
    r"(?:tell|give|show) me"
    rf"|(?:explain|describe|list) (?:an?|the|how|what|when|where|which|who|why|{_COUNTS})"
)
"""What "can you" asks for, and not whether one can: "can you describe images" asks that."""

_ORDERED: Final = (
    rf"(?:{_ASKED_FOR}|create|find|calculate|compute|convert|analy[sz]e|discuss|evaluate|identify|design|plan|solve"
    r"|derive|simplify|implement|fix|debug|refactor|review|check|rank|rate|make)"
)
_ASKING: Final = r"(?:what|how|why|when|where|which|who|whose|whom)"
_FIRST: Final = re.compile(
    rf"(?:{_ORDERED}|{_ASKING}|is|are|was|were|do|does|did|can|could|should|would|will|has|have|the"
    r"|please|kindly)(?![\w'-])",
    re.IGNORECASE,
)
"""How a sentence may begin in a small letter: none of these is a name."""

_FIRST_CONTRACTED: Final = re.compile(rf"{_ASKING}(?='s\b)", re.IGNORECASE)
_ASKS: Final = re.compile(rf"(?:{_ORDERED}|{_ASKING})\b")

_TASKS: Final = (
    r"(?:add|bake|boil|build|calculate|change|compute|configure|connect|convert|cook|count|create|delete|deploy"
    r"|download|filter|find|fix|format|get|install|join|load|make|merge|parse|plot|print|read|remove|rename"
    r"|replace|run|save|set|sort|split|test|undo|uninstall|update|upgrade|upload|use|write)"
)

_ABOUT_TEXT: Final = re.compile(
    r"\b(?:accent|acronym|anagram|antonym|base64|capitali|cipher|complet|continu|contraction|correct|count|decod|dialect"
    r"|echo|edit|encod|finish|formal|gramma|hash|impolite|informal|letters|lowercase|misspel|output|palindrome"
    r"|match|mean|apostrophe|abbreviat|pattern|wildcard|paraphras|phras|polite|print|pronounc|pronunciation|proofread|punctuat|quot|regex|repeat|rephras|replac|repl(?:y|ies)"
    r"|respon|revers|rewrit|rhym|rude|said|say|sentence|sentiment|shorten|spell|spelt|substitut|swap|syllable|synonym"
    r"|token|tone|translat|typo|uppercase|verbatim|voice|words?\b|characters?\b)",
    re.IGNORECASE,
)
"""An instruction with one of these is about a text: every letter of that may matter."""

_ABOUT_LETTERS: Final = re.compile(
    r"\b(?:base64|blank|bytes?\b|characters?\b|checksum|count|csv|encod|exact|hash|indent|length|letters|lines?\b|md5|newline"
    r"|pars|regex|sha|spaces?\b|strip|tabs?\b|trim|tsv|verbatim|white ?space)",
    re.IGNORECASE,
)
"""An instruction with one of these may be about the blanks around a text, too."""

_ABOUT_FORM: Final = re.compile(
    r"(?i:\b(?:american|blank|british|capital(?=[?.]| letter)|capitali|chess\b|comma\b|contracted|curly"
    r"|dialect|full stop|gap\b|lower|period\b|punctuat|question mark|regex|ruby\b|short for"
    r"|spac(?:e|es|ing)\b|spell|spelt|upper)|c#)|\b(?:US|UK)\b"
)
"""A prompt that begins with one of these may be about how it is written itself."""

_FORM_LETTERS: Final = 400
_WORDY: Final = 4
"""Words of a sentence whose point or mark says no more than that it ends."""

_LENGTH: Final = re.compile(
    rf"\b(?:in|of|with|to|under|within|most|least|than) (?:\w+ )?(?:one|{_COUNTS}) (?:\w+ )?"
    r"(?:words?|sentences?|characters|syllables|tokens)\b"
)
"""How long the answer is to be: about no text that is there."""

_END: Final = re.compile(r"(?<=[.?!:])(?=\s)|(?=\n)")
_QUOTED: Final = re.compile(r"`[^`]*`|\"[^\"]*\"|(?<!\w)'[^']*'(?!\w)")
_LONGEST: Final = 2_000
"""Letters of an instruction; a longer one is a text."""

_LONGEST_CLOSING: Final = 40

_PRIVATE: Final = re.compile("[\ue000-\uf8ff]")
_APOSTROPHE: Final = re.compile(r"(?<=[^\W\d_])\u2019(?=[^\W\d_])")
_CURLY: Final = re.compile('\u201c([^\u201c\u201d"]*\\w[^\u201c\u201d"]*)\u201d')
_BLANK_LINES: Final = re.compile(r"\A(?:[ \t]*\n)+")

_GREETING: Final = re.compile(
    r"(?i:(?:hi|hello|hey|good (?:morning|afternoon|evening))(?: there)?[,!.]\s+|(?:so|ok|okay|well), )"
    rf"(?=(?i:{_ORDERED}|{_ASKING}|please)\b)"
)
_CLOSING: Final = re.compile(
    r"(?:(?<=[a-z]),|(?<=[.?!]))\s+(?:please|thanks|thank you)(?: in advance| very much| a lot)?[.!]*\Z",
    re.IGNORECASE,
)
_POINTS: Final = re.compile(
    r"\b(?:this|these|that|following|below|above|called|titled|entitled|named)\b", re.IGNORECASE
)
"""What points at a text, of which a closing word may be a part."""

_POLITE: Final = re.compile(
    rf"(?i:(?:please|kindly),? )(?=(?i:{_ORDERED}|{_ASKING}|(?:could|can|would|will) you)\b)"
    rf"|(?i:(?:can|could) you )(?=(?:{_SURELY_ASKED_FOR})\b)"
    rf"|(?i:(?:can|could|would|will) you (?:please|kindly) )(?={_ORDERED}\b)"
    rf"|(?i:i(?: want| need|'d like| would like) you to )(?={_ORDERED}\b)"
)

_VERBS: Final = re.compile(
    r"\A(categori|emphasi|generali|minimi|optimi|organi|prioriti|randomi|summari|visuali|analy)se\b"
)
"""What an instruction begins with in British spelling. Elsewhere a spelling may be a name's, as in code."""

_CONTRACTIONS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"\b(do|does|did|is|are|was|were|has|have|had|would|could|should)n't\b"), r"\1 not"),
    (re.compile(r"\bcan't\b"), "cannot"),
    (re.compile(rf"\A({_ASKING})'s\b"), r"\1 is"),
)

_OPENINGS: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(rf"\A{pattern}"), to)
    for pattern, to in (
        (rf"(?:how (?:do|can) I|how to|(?:show me|tell me|explain) how to) (?={_TASKS} \S)", "how to "),
        (r"(?:give|provide)(?: me)? a list of ", "list "),
        (r"(?:give|provide|write)(?: me)? a summary of ", "summarize "),
        (r"(?:give|provide)(?: me)? an example of ", "give an example of "),
        (
            r"(?:tell me|explain|describe|what is|what are) the differences? between ",
            "the difference between ",
        ),
        (r"how do(?:es)? ((?:an?|the) .+) work\Z", r"explain how \1 works"),
        (r"explain how ((?:an?|the) .+) work\Z", r"explain how \1 works"),
        (r"tell me what (the .+ of .+) is\Z", r"\1"),
        (r"(?:tell me|what is) (the .+ of .+)\Z", r"\1"),
        (rf"(give|write) me (?=(?:an?|{_COUNTS}) \S+ \S)", r"\1 "),
        (
            (
                r"(.*)\b(?:the following|this) "
                r"(article|code|email|function|letter|message|note|passage|poem|review|text):\Z"
            ),
            r"\1this \2:",
        ),
    )
)


def form_of(prompt: str) -> Form:
    """Return the form of a prompt, which is the same for all that ask the same."""
    text = prompt.strip()
    bare = _GREETING.sub("", text, count=1) if _GREETING.match(text) else text
    head, rest = _divided(bare)
    closing = _CLOSING.search(bare, max(0, len(bare) - _LONGEST_CLOSING))
    if closing is not None and not _POINTS.search(bare):
        opened = _divided(bare[: closing.start()])
        if not opened[1] and _ASKS.match(_plain(opened[0], ends=True)):
            head, rest = opened
    about_text = _ABOUT_TEXT.search(_LENGTH.sub("", head)) is not None
    apart = bool(rest) and head.endswith(":")
    if (
        len(head) > _LONGEST
        or (about_text and not apart)
        or _ABOUT_LETTERS.search(_LENGTH.sub("", head))
        or _ABOUT_FORM.search(text, 0, _FORM_LETTERS)
        or _PRIVATE.search(text)
    ):
        return Form(prompt)
    quoted: list[str] = []

    def taken(found: re.Match[str]) -> str:
        quoted.append(found[0])
        return chr(0xE000 + len(quoted))

    plain = _plain(_QUOTED.sub(taken, _straight(head)), ends=not rest)
    if about_text:
        return Form(plain, tuple(quoted), prompt[prompt.index(head) + len(head) :])
    return Form(_in_few_words(plain), tuple(quoted), rest)


def _divided(text: str) -> tuple[str, str]:
    """Return the instruction of a prompt, and what follows it."""
    end = _END.search(text)
    if end is None:
        return text, ""
    head, rest = text[: end.start()], text[end.start() :]
    below = _BLANK_LINES.sub("", rest)
    return head, f"\n{below}" if below != rest and "\n" in below else below.lstrip(" ")


def _straight(text: str) -> str:
    """Return a text with straight quotes, where it has curly ones alone."""
    text = _APOSTROPHE.sub("'", text)
    return text if '"' in text else _CURLY.sub(r'"\1"', text)


def _plain(instruction: str, *, ends: bool) -> str:
    """Return an instruction without politeness, and beginning and ending as others do.

    Args:
        instruction: Without what it quotes.
        ends: Whether nothing follows it.
    """
    is_question = False
    while polite := _POLITE.match(instruction):
        is_question |= polite[0].lower().startswith(("can ", "could ", "would ", "will "))
        instruction = instruction[polite.end() :]
    first = _FIRST.match(instruction) or _FIRST_CONTRACTED.match(instruction)
    if first is not None and first[0][1:].islower():
        instruction = instruction[0].lower() + instruction[1:]
    if ends and len(re.findall(r"\w+", instruction)) >= _WORDY:
        # A word that may be an abbreviation keeps its point, and what isn't asked its mark: "the type int?".
        instruction = re.sub(r"(?<= )([a-z]{4,})\.\Z", r"\1", instruction)
        if is_question or re.match(rf"{_ASKING}\b", instruction):
            instruction = re.sub(r"(?<=[\w)])\?\Z", "", instruction)
    return instruction


def _in_few_words(instruction: str) -> str:
    """Return an instruction without contractions, and in one of the ways to ask the same.

    One that has a word both contracted and not is about that.
    """
    for pattern, to in _CONTRACTIONS:
        if any(re.search(rf"\b{found.expand(to)}\b", instruction) for found in pattern.finditer(instruction)):
            return instruction
    instruction = _VERBS.sub(r"\1ze", instruction)
    for pattern, to in (*_CONTRACTIONS, *_OPENINGS):
        instruction = pattern.sub(to, instruction)
    return instruction


# Why two are not the same

_NUMBERS: Final = (
    r"one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|\w+ty|hundred|thousand|million|billion"
    r"|half|third|quarter|double|twice|once|dozen|first|second|(?:four|fif|six|seven|eigh|nin|ten)th|[IVXLCDM]{2,}"
)
_KINDS: Final[tuple[tuple[str, re.Pattern[str]], ...]] = tuple(
    (what, re.compile(pattern))
    for what, pattern in (
        ("code", r"[_`{}\[\]()<>=;|&\\/@#*+^~]|[a-z][A-Z]|[^\W\d]\.\w"),
        (
            "a negation",
            (
                r"(?i)\b(?:not?|never|none|nobody|nothing|neither|nor|without|cannot|hardly|barely|except|exclud\w+|un\w+|non\w*"
                r"|dis\w+|impossible)\b|n't\b"
            ),
        ),
        (
            "a currency",
            r"[$€£¥₹₽₩]|\b(?:USD|EUR|GBP|JPY|CHF|CAD|AUD|CNY|INR)\b|(?i:\b(?:dollar|euro|pound|yen|cent|rupee|franc|yuan)s?\b)",
        ),
        (
            "a date",
            (
                r"(?i)\b(?:january|february|march|april|may|june|july|august|september|october|november|december|(?:mon|tues"
                r"|wednes|thurs|fri|satur|sun)day|today|tomorrow|yesterday|am|pm|bc|ad|bce|ce|last|next|this|now|ago)\b|\d{4}-\d"
            ),
        ),
        (
            "a unit",
            (
                r"\d(?:(?!st\b|nd\b|rd\b|th\b)[a-zµ°%]|\s?[A-Z])|[°%µ]|\b(?:[kcmµnMG]?[mgsWJVA]|[KMGT]i?[Bb]|[kMG]Hz|oz|lb|mph|ft)\b"
                r"|(?i:\b(?:kilo|centi|milli)?(?:metre|meter|gram|litre|liter)s?\b"
                r"|\b(?:mile|inch|foot|second|minute|hour|day|week|month|year|kelvin|celsius|fahrenheit|percent)(?:s|es)?\b)"
            ),
        ),
        ("a number", rf"\d|[½¼¾⅓⅔²³]|\b(?:{_NUMBERS})\b"),
        (
            "a comparison",
            (
                r"(?i)\b(?:more|less|fewer|most|least|before|after|until|since|above|below|over|under|than|better|worse|best"
                r"|worst|min\w*|max\w*|(?:as|des)cending|earli\w+|lat(?:er|est)|\w{3,}er|\w{3,}est)\b"
            ),
        ),
        (
            "a quantity",
            (
                r"(?i)\b(?:all|every|each|any|some|many|much|few|several|both|either|only|also|always|often|sometimes|must|may"
                r"|might|should|could|can|an?|the)\b"
            ),
        ),
        (
            "a language",
            (
                r"\b(?:English|French|German|Spanish|Italian|Portuguese|Dutch|Danish|Swedish|Norwegian|Polish|Russian|Chinese"
                r"|Japanese|Korean|Arabic|Hindi|Turkish|Greek|Latin|Catalan|Hebrew|British|American)\b"
            ),
        ),
        ("a name", r"\b[A-Z]"),
    )
)


def _reason(one: Form, other: Form) -> str:
    """Return what kind of difference two prompts have, and which."""
    texts = ("\n".join(filter(None, (part.instruction, *part.quoted, part.rest))) for part in (one, other))
    pieces = words_changed(*texts)
    gone, new = (" ".join(text.strip() for kind, text in pieces if kind == which) for which in (GONE, NEW))
    shown = " / ".join(one_line(text, 40) or "nothing" for text in (gone, new))
    return f"{_kind(gone, new)} differs: {shown}"


def _kind(gone: str, new: str) -> str:
    if not gone and not new:
        return "white space"
    words = [re.findall(r"\w+", text) for text in (gone, new)]
    if words[0] and Counter(words[0]) == Counter(words[1]):
        return "the order of words" if words[0] != words[1] else "punctuation"
    for what, pattern in _KINDS:
        if any(map(pattern.search, (gone, new))):
            return what
    if gone.lower() == new.lower():
        return "upper and lower case"
    return "a word" if any(words) else "punctuation"
