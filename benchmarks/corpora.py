"""Real texts of many kinds and languages, from Python itself and from packages that lie in a folder.

The languages are those into which Django and Sphinx are translated: people wrote them. What is random
is drawn from a fixed seed. The same folder gives the same texts.
"""

from __future__ import annotations

import ast
import base64
import json
import random
import re
import string
import sysconfig
import uuid
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prose import prose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZES_CHARS = (30, 250, 2_000)
PIECES_EACH = 4
FILES_EACH = 60
_STRIDE = 7_919  # a prime: consecutive samples begin at unlike places
_FILE_CHARS = 60_000
_PARAGRAPH_CHARS = 300

FAMILIES = {
    "Cyrillic": "be bg ky mk mn ru sr tg uk kk",
    "Greek, Armenian, Georgian": "el hy ka",
    "Arabic, Hebrew": "ar ar_DZ fa he ur ug ckb",
    "Chinese, Japanese": "zh_Hans zh_Hant ja",
    "Korean": "ko",
    "Indic": "bn hi kn ml mr ne pa ta te si gu",
    "South-East Asian": "th km my lo",
    "Ethiopic": "am ti",
}
"""Languages by the script that they are written in; those that are in none are in Latin letters."""

_EMOJI = "😀 😂🤣 ❤️ 👍🏽 👩‍👩‍👧‍👦 🇩🇪🇯🇵 🎉🎊 ✅ ❌ ⚠️ 🚀 🔥🔥🔥 ✨ 📈 🙏🏿 🏳️‍🌈 1️⃣ ☕ ♻️ 🧑🏻‍💻"
_SYMBOLS = (
    "∀x∈ℝ: ∑ᵢ₌₁ⁿ αᵢ² ≤ ∫₀^∞ e⁻ˣ dx ⇒ ‖A‖₂ ≠ √λ ± ½ "  # noqa: RUF001 - they are what is counted
    "┌──┬──┐ │ ▓▒░ │ → “quoted” – it’s … € £ © ° × ≈ ∂f/∂θ"  # noqa: RUF001
)
_FORMULAS = (
    r"\begin{align} \frac{\partial \mathcal{L}}{\partial \theta_{i,j}} &= \sum_{k=1}^{N} "
    r"\left( \hat{y}_k - y_k \right)^2 + \lambda \lVert W \rVert_F^2 \\ "
    r"\mathbb{E}_{x \sim p(x)}[f(x)] &\approx \frac{1}{n}\sum_i f(x_i) \end{align} "
)
_PRINTED = string.ascii_letters + string.digits + string.punctuation
_BLANKS = (" ", "\n", "\t", "\r\n", "\n\n", " \n", "\x00", "\x1b")


class Sample(NamedTuple):
    """A text, its kind, and where it came from."""

    kind: str
    source: str
    text: str


def samples(folder: Path) -> Iterator[Sample]:
    """Pieces of every text, in each of the sizes."""
    for kind, source, text in _whole(folder):
        for size in SIZES_CHARS:
            for number in range(PIECES_EACH * (4 if kind in FAMILIES else 1)):
                start = number * _STRIDE % max(1, len(text) - size)
                if piece := text[start : start + size]:
                    yield Sample(kind, source, piece)


def _whole(folder: Path) -> Iterator[Sample]:
    yield from _prose(folder)
    library = Path(sysconfig.get_path("stdlib"))
    yield from _files("Python", library, "*.py")
    yield from _files("C", Path(sysconfig.get_path("include")), "**/*.h")
    yield from _files("JavaScript", folder, "**/django/contrib/admin/static/**/js/*.js")
    yield from _files("minified", folder, "**/*.min.js")
    yield from _files("HTML, CSS", folder, "**/django/contrib/admin/**/*.html")
    yield from _files("HTML, CSS", folder, "**/django/contrib/admin/**/*.css")
    yield from _files("TeX", folder, "**/*.sty")
    yield from _files("JSON", folder, "**/package.json")
    yield from _files("JSON", folder, "**/litellm/**/*.json")
    yield from _made()
    yield from _languages(folder)


def _prose(folder: Path) -> Iterator[Sample]:
    from pydoc_data.topics import topics

    for name, text in islice(sorted(topics.items(), key=lambda item: -len(item[1])), FILES_EACH):
        yield Sample("English", name, " ".join(text.split()) if len(name) % 2 else text)
        if len(name) % 4 == 0:
            yield Sample("SHOUTED", name, text.upper())
    yield from _files("Markdown", folder, "**/README.md")
    yield from _files("Markdown", folder, "**/METADATA")


def _files(kind: str, folder: Path, pattern: str) -> Iterator[Sample]:
    paths = sorted(path for path in folder.glob(pattern) if path.stat().st_size > min(SIZES_CHARS))
    for path in paths[:: max(1, len(paths) // FILES_EACH)][:FILES_EACH]:
        text = path.read_text(encoding="utf-8", errors="ignore")[:_FILE_CHARS]
        yield Sample(kind, path.name, text[len(text) // 3 :])


def _made() -> Iterator[Sample]:
    """Data as programs write it; the same at every call."""
    draw = random.Random(4)
    rows: list[dict[str, Any]] = []
    kinds: dict[str, Callable[[], str]] = {
        "JSON": lambda: json.dumps(rows, indent=draw.choice([None, 2, 4])),
        "CSV": lambda: "\n".join(",".join(str(value) for value in row.values()) for row in rows),
        "table": lambda: "\n".join(
            f"| {row['user']:>12} | {row['score']:10.3f} | {row['id']:,} |" for row in rows
        ),
        "numbers": lambda: " ".join(str(draw.randrange(10 ** draw.randrange(1, 12))) for _ in range(600)),
        "base64": lambda: base64.b64encode(draw.randbytes(2_000)).decode(),
        "hex": lambda: draw.randbytes(2_000).hex(),
        "UUIDs": lambda: "\n".join(str(uuid.UUID(int=draw.getrandbits(128))) for _ in range(80)),
        "letters": lambda: "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=3_000)),
        "capitals": lambda: "".join(draw.choices("ACDEFGHIKLMNPQRSTVWY", k=3_000)),
        "log": lambda: "\n".join(
            f"2026-03-{draw.randrange(1, 29):02} 12:{draw.randrange(60):02}:07,{draw.randrange(999):03} "
            f"ERROR [worker-{draw.randrange(9)}] GET /api/v1/items/{draw.getrandbits(40):x}?page={n} 500 "
            f"{draw.random():.4f}s"
            for n in range(60)
        ),
        "emoji": lambda: " ".join(draw.choices(_EMOJI.split(" "), k=400)),
        "symbols": lambda: " ".join(draw.choices(_SYMBOLS.split(" "), k=600)),
        "TeX": lambda: _FORMULAS * 8,
        "passwords": lambda: " ".join(
            "".join(draw.choices(_PRINTED, k=draw.randrange(8, 40))) for _ in range(90)
        ),
        "spelled": lambda: " ".join(draw.choices(_PRINTED, k=1_000)),
        "blank": lambda: "".join(draw.choice(_BLANKS) * draw.choice((1, 2, 8, 40, 200)) for _ in range(120)),
        "rules": lambda: "\n".join(draw.choice("=-#*_.~ ") * draw.randrange(1, 90) for _ in range(90)),
    }
    for _ in range(6):
        rows[:] = [
            {
                "id": n,
                "user": f"u_{draw.getrandbits(24):06x}",
                "score": draw.gauss(0, 9),
                "ok": draw.random() < 0.5,
            }
            for n in range(200)
        ]
        for kind, make in kinds.items():
            yield Sample(kind, "made", make())


def _languages(folder: Path) -> Iterator[Sample]:
    family = {language: name for name, languages in FAMILIES.items() for language in languages.split()}
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("**/locale/*/LC_MESSAGES/*.po")):
        found.setdefault(path.parents[1].name, []).extend(_translations(path))
    for language, texts in found.items():
        if sum(map(len, texts)) > min(SIZES_CHARS) and not language.startswith("en"):
            kind = family.get(language, "Latin letters")
            texts.sort(key=len, reverse=True)  # sentences before labels
            yield Sample(kind, language, " ".join(texts))
            yield Sample(kind, language, "\n".join(texts[::-1]))
            yield Sample("mixed", language, _alternating(prose(20_000, len(texts)), " ".join(texts)))


def _alternating(one: str, other: str) -> str:
    """Paragraphs of two texts in turn."""
    starts = range(0, min(len(one), len(other)), _PARAGRAPH_CHARS)
    return "\n".join(text[start : start + _PARAGRAPH_CHARS] for start in starts for text in (one, other))


def _translations(path: Path) -> Iterator[str]:
    for quoted in re.findall(r'^msgstr ((?:"[^\n]*"\n?)+)', path.read_text(encoding="utf-8"), re.MULTILINE)[
        1:
    ]:
        if text := "".join(ast.literal_eval(line) for line in quoted.splitlines()):
            yield text
