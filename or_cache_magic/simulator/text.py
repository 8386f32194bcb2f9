"""What the simulator says: short Markdown that fits the prompt, the same for the same prompt.

It knows a few kinds of task well enough for notebooks to look real (classify, summarise, count,
translate, small sums), says of itself that it is simulated, and never claims to be a model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from or_cache_magic.simulator.words import (
    BAD,
    CAPITALS,
    COMMON,
    GOOD,
    NEGATIONS,
    NUMBERS,
    RELATED,
    SPAM,
)

_WORD: Final = re.compile(r"[^\W\d_][\w'\u2019-]*")
_TABLE_ROW: Final = re.compile(r"^\|.*\|$", re.MULTILINE)
_AMOUNT: Final = re.compile(
    rf"\b(\d{{1,2}}|{'|'.join(NUMBERS)})\s+(?:\w+\s+)?"
    r"(?:bullet|sentence|point|line|use|way|reason|idea|example|step|tip|fact|thing|item|benefit|risk)"
)
_OPENINGS: Final = ("Here is a short answer", "In short", "A few points", "Briefly")
_REMARKS: Final = (
    "start from what is known, and say what is not",
    "one concrete example is worth more than a definition",
    "measure first; the numbers usually surprise",
    "the simplest version that works is the place to begin",
    "it depends most on how it will be used",
    "small, repeatable steps make it easy to check",
    "compare at least two options before settling",
    "write down the assumptions, since they change",
)


def answer_text(system: str, turns: Sequence[str], seed: int) -> str:
    """The answer to the last of the user's turns.

    Args:
        system: The system prompt's text; may be empty.
        turns: What the user said, oldest first; the last is answered, the others give it context.
        seed: Which of the equally good wordings; the same seed, the same text.
    """
    question = turns[-1] if turns else ""
    for task in (
        _classify,
        _choose_label,
        _summarise,
        _translate,
        _calculate,
        _look_up,
        _write_code,
        _write_verse,
    ):
        answer = task(system, question)
        if answer is not None:
            return answer
    return _discuss(system, turns, seed)


def sentiment(text: str) -> str:
    """``"positive"``, ``"negative"`` or ``"neutral"``, by counting words; a negation turns the next three."""
    words = [word.lower().replace("\u2019", "'") for word in _WORD.findall(text)]
    score = 0
    for place, word in enumerate(words):
        value = (word in GOOD) - (word in BAD)
        turned = any(before in NEGATIONS for before in words[max(0, place - 3) : place])
        score += -value if turned else value
    return "positive" if score > 0 else "negative" if score < 0 else "neutral"


def keywords(text: str, count: int) -> list[str]:
    """The ``count`` words that ``text`` uses most, common ones left out, in order of appearance."""
    words = [word for word in _WORD.findall(text) if len(word) > 2 and word.lower() not in COMMON]  # noqa: PLR2004
    often = Counter(word.lower() for word in words).most_common(count)
    chosen = {word for word, _ in often}
    first: dict[str, str] = {}
    for word in words:
        if word.lower() in chosen:
            first.setdefault(word.lower(), word)
    return list(first.values())


def central_sentences(text: str, count: int) -> list[str]:
    """The ``count`` sentences whose words the rest of ``text`` shares most, in their order.

    Of a row of a Markdown table only the longest cell is read.
    """
    text = _TABLE_ROW.sub(lambda row: max(row.group().split("|"), key=len), text)
    sentences = [part.strip() for part in re.split(r"(?<=[.!?…])\s+|\n+", text) if _WORD.search(part)]
    bags = [{word.lower() for word in _WORD.findall(s)} - COMMON for s in sentences]
    weight = Counter(word for bag in bags for word in bag)
    scores = [sum(weight[word] for word in bag) / (len(bag) + 5) for bag in bags]
    best = sorted(range(len(sentences)), key=lambda place: -scores[place])[:count]
    return [sentences[place] for place in sorted(best)]


def quoted(turns: Sequence[str]) -> str | None:
    """The sentence of what was shown that shares most words with the last question; None where none does."""
    asked = re.findall(r"[^.!?\n]+\?", turns[-1] if turns else "")
    words = _stems(asked[-1]) if asked else set()
    sentences = [part.strip() for part in re.split(r"(?<=[.!?])\s+|\n+", "\n".join(turns))]
    sentences = [sentence for sentence in sentences if sentence and not sentence.endswith("?")]
    best = max(sentences, key=lambda sentence: len(words & _stems(sentence)), default="")
    return f"It says: \u201c{best}\u201d (a simulated answer)" if words & _stems(best) else None


def _stems(text: str) -> set[str]:
    return {word.lower()[:5] for word in _WORD.findall(text) if word.lower() not in COMMON}


def _classify(system: str, question: str) -> str | None:
    instructions = f"{system}\n{question}".lower()
    labels: tuple[str, ...]
    if "positive" in instructions and "negative" in instructions:
        labels, decide = ("positive", "negative", "neutral", "mixed"), sentiment
    elif re.search(r"\bsentiment\b", instructions):
        labels, decide = ("positive", "negative", "neutral"), sentiment
    elif "spam" in instructions and re.search(r"\b(ham|not spam)\b", instructions):
        labels, decide = ("spam", "ham", "not spam"), _spam_or_ham
    else:
        return None
    label = decide(_without(question, labels))
    written = re.search(rf"\b{label}\b", f"{system}\n{question}", re.IGNORECASE)
    return written.group() if written else label


def _choose_label(system: str, question: str) -> str | None:
    """One of the labels that the prompt lists (``classify … as billing, bug or feature: …``)."""
    listed = re.search(
        r"\b(?:classify|categori[sz]e|label|tag|route)\b.*?\b(?:as|into|one of)\b:?\s+"
        r"([\w /-]+(?:, [\w /-]+)*,? (?:or|and) [\w/-]+)",
        f"{system}\n{question}",
        re.IGNORECASE,
    )
    if listed is None:
        return None
    labels = [label.strip() for label in re.split(r",| or | and ", listed.group(1)) if label.strip()]
    words = {word.lower() for word in _WORD.findall(_instruction_and_source(question)[1])}
    fits = [len(words & ({label.lower()} | RELATED.get(label.lower(), frozenset()))) for label in labels]
    return labels[fits.index(max(fits))]


def _without(text: str, labels: tuple[str, ...]) -> str:
    """The text without the words that only name the labels."""
    return re.sub(rf"\b({'|'.join(labels)}|sentiment)\b", " ", text, flags=re.IGNORECASE)


def _spam_or_ham(text: str) -> str:
    words = {word.lower() for word in _WORD.findall(text)}
    return "spam" if len(words & SPAM) > 1 else "ham"


def _summarise(system: str, question: str) -> str | None:
    asked = re.search(
        r"\b(summar\w+|tl;?dr|key points|main points)\b", f"{system}\n{question}", re.IGNORECASE
    )
    if asked is None:
        return None
    instruction, source = _instruction_and_source(question)
    wanted = f"{system}\n{instruction}".lower()
    amount = _AMOUNT.search(wanted)
    count = _number(amount.group(1)) if amount else 2
    sentences = central_sentences(source, count)
    if not sentences:
        return None
    bullets = re.search(r"bullet|points|list", wanted)
    return "\n".join(f"- {s}" for s in sentences) if bullets else " ".join(sentences)


def _instruction_and_source(question: str) -> tuple[str, str]:
    """The part that says what to do, and the text to do it with."""
    quoted = re.search(r"(?s)```\w*\n(.+?)```|\"\"\"(.+?)\"\"\"|<\w+>(.+?)</\w+>", question)
    if quoted:
        return question[: quoted.start()], next(group for group in quoted.groups() if group)
    head = re.match(r"(?s)(.{0,300}?)(?::\s+|\n+)(.+)", question.strip())
    return (head.group(1), head.group(2)) if head else (question, question)


def _translate(_: str, question: str) -> str | None:
    asked = re.search(r"\btranslat\w+\b.*?\b(?:in)?to (\w+)", question, re.IGNORECASE | re.DOTALL)
    if asked is None:
        return None
    source = _instruction_and_source(question)[1].strip().strip("\"'")
    return f"[simulated translation to {asked.group(1).capitalize()}] {source}"


def _calculate(_: str, question: str) -> str | None:
    found = re.search(r"(?<![\w.])(\d{1,9})\s*([-+*\u00d7x/])\s*(\d{1,9})(?![\w.])", question)
    if found is None or len(question) > 120:  # noqa: PLR2004
        return None
    left, sign, right = int(found[1]), found[2], int(found[3])
    if sign == "/":
        return f"{left / right:g}" if right else None
    results: dict[str, Callable[[int, int], int]] = {"+": int.__add__, "-": int.__sub__}
    return str(results.get(sign, int.__mul__)(left, right))


def _look_up(_: str, question: str) -> str | None:
    found = re.search(r"capital (?:city )?of (?:the )?(\w+)", question, re.IGNORECASE)
    city = CAPITALS.get(found.group(1).lower()) if found else None
    if found is None or city is None:
        return None
    if re.search(r"one word|only|just", question, re.IGNORECASE):
        return city
    return f"The capital of {found.group(1).capitalize()} is {city}."


def _write_code(_: str, question: str) -> str | None:
    if not re.search(r"\b(function|code|script|snippet)\b", question, re.IGNORECASE):
        return None
    if not re.search(r"\b(write|implement|create|generate)\b", question, re.IGNORECASE):
        return None
    words = [word.lower() for word in keywords(question, 6)]
    words = [
        w for w in words if w.isidentifier() and w not in {"python", "function", "code", "script", "snippet"}
    ]
    name = "_".join(words[:2]) or "answer"
    return (
        f"```python\ndef {name}(items):\n"
        f'    """A simulated answer about {" ".join(words) or "this"}."""\n'
        "    return [item for item in items if item]\n```\n\n"
        "This is a simulated answer: it has the shape of code, not its substance."
    )


def _write_verse(_: str, question: str) -> str | None:
    asked = re.search(r"\b(haiku|poem|verse|limerick)\b", question, re.IGNORECASE)
    if asked is None:
        return None
    topic = next((word for word in keywords(question, 3) if word.lower() != asked.group().lower()), "this")
    return f"{topic.capitalize()}, asked again:\na small, simulated verse,\nthe same as before."


def _discuss(system: str, turns: Sequence[str], seed: int) -> str:
    """Some Markdown about the words of the prompt, in the form that it asks for."""
    topics = keywords(turns[-1], 4) if turns else []
    for earlier in reversed(turns[:-1]):
        if len(topics) > 1:
            break
        topics += [word for word in keywords(earlier, 3) if word not in topics]
    topics = topics or ["this"]
    wanted = f"{system}\n{turns[-1] if turns else ''}".lower()
    if re.search(r"\b(one|single) word\b", wanted):
        return topics[0]
    asked = _AMOUNT.search(wanted)
    count = _number(asked.group(1)) if asked else min(len(topics), 3)
    opening, first = seed % len(_OPENINGS), seed // len(_OPENINGS)
    points = [
        (topics[place] if place < len(topics) else "", _REMARKS[(first + 3 * place) % len(_REMARKS)])
        for place in range(count)
    ]
    if re.search(r"\bsentences?\b", wanted):
        said = [f"on {topic}, {remark}" if topic else remark for topic, remark in points]
        return f"A simulated answer: {said[0]}." + "".join(f" {s[0].upper()}{s[1:]}." for s in said[1:])
    lines = [f"**{topic}**: {remark}." if topic else f"{remark}." for topic, remark in points]
    marks = [f"{place}." if asked else "-" for place in range(1, count + 1)]
    listed = "\n".join(f"{mark} {line}" for mark, line in zip(marks, lines, strict=True))
    return f"{_OPENINGS[opening]} about *{topics[0]}* (a simulated answer):\n\n{listed}"


def _number(text: str) -> int:
    """The number that a numeral or word stands for, within 1 and 10."""
    return min(max(NUMBERS.get(text) or int(text), 1), 10)
