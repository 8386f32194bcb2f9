r"""Model text made safe to show as Markdown.

A live Jupyter cell is trusted, so raw HTML inside Markdown runs there, and a model's text is not to
be trusted. The cure does not depend on guessing how a front end parses: outside of fences at the
margin nothing is left that any parser could take for a tag, an image, a link to a script or the
edge of a fence. Two kinds of code need no guess either: a fence at the margin is written in the one
form that every parser reads alike (backticks longer than any inside, blank lines around), and any
other code that holds something dangerous becomes ``<code>`` with its punctuation as entities, which
shows and copies exactly and is inert wherever it stands.

Indented code, and spans over several lines, are found as CommonMark finds them, and written in these forms.

Mathematics follows JupyterLab's ``removeMath`` (packages/rendermime/src/latex.ts), which takes
``$…$`` out *before* Markdown is parsed and puts it back after, into attributes too: a ``$`` that is
not one half of sound mathematics is written as ``<span>&#36;</span>``, which neither that pass nor
MathJax pairs with another.

What changes in the text that is seen: images are links, refused links show their target, control
characters become their pictures (``␛``), ``\(…\)`` and ``\[…\]`` become ``$…$`` and ``$$…$$``.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

from or_cache_magic.display.escape import RISKY, TICKS, entity, fenced, printable

# Compiled when first used: they take a fresh kernel longer than everything else that a hit needs.
_FENCE_OPENS: Final = (
    r"(?m)^(?P<prefix>[ \t>]*(?:(?:[-+*]|\d{1,9}[.)])[ \t][ \t>]*)*)"
    r"(?P<fence>`{3,}(?=[^`\n]*$)|~{3,})(?P<info>[^\n]*)$"
)
_FENCE_RUN: Final = "`{3,}|~{3,}"
_BLANK_LINE_NEXT: Final = r"\n?[ \t]*(?:\n|\Z)"

# JupyterLab's own pattern for code spans (latex.ts): what it sees as code, we see as code.
_CODE_SPAN: Final = r"(?m)(?P<before>^|[^\\])(?P<ticks>`+)(?P<code>[^\n]*?[^`\n])(?P=ticks)(?!`)"

#: Code that stands neither in a fence nor within a line, perhaps.
_OTHER_CODE: Final = r"(?m)^[ \t>]*(?:(?:[-+*]|\d{1,9}[.)])[ \t]+)?(?:\t| {4})|`[^`\n]*\n"
_TICK_RUN: Final = "`+"
_SPAN_OPENS: Final = r"\\`|(?P<ticks>`+)"

#: What may not stand in code that is left as it is.
_DANGER: Final = r"<[A-Za-z/!?]|!\[|\][(:]|\$|\\(?:begin|end)\{|\\\\[()\[\]]"

_PUNCTUATION: Final = r"[!-+/:<-@\[-`{-~\n\t]"
_ENCODED: Final = r"(?:[^!-+/:<-@\[-`{-~\n\t]|&#\d+;)*"
_INERT_HTML: Final = (
    rf"<(?:pre><code>{_ENCODED}</code></pre>|code>{_ENCODED}</code>|span>&#\d+;</span>|br ?/?>|/?su[bp]>)"
)

_PATH: Final = r"(?:[^\s<>()\"`$\\]|\([^\s<>()\"`$\\]*\)){0,2000}"
_TARGET: Final = rf"(?:(?i:https?://|mailto:){_PATH}|[^\s<>():&\"`$\\/?#~]*(?:[/?#]{_PATH})?)"
_LINK_REST: Final = rf" ?{_TARGET}(?:[ \t]+\"[^\"`$\\\n]*\")? ?\)"
_DEFINITION_REST: Final = rf"\s*(?=\S){_TARGET}(?=\s|\Z)"

_MACRO: Final = (
    r"(?:href|url|require|style|class|cssId|data|html\w*|unicode|mmlToken|includegraphics)(?![A-Za-z])"
)
_TEX: Final = r"(?:[^$`\"\\\n]|\\[^\n`\"]|\n(?![ \t]*\n))"
_TEX_LINE: Final = r"(?:[^$`\"\\\n]|\\[^\n`\"()])"
_TEX_BRACKET: Final = r"(?:[^$`\"\\\n]|\\\\\[?|\\[^\n`\"\[\]\\]|\n(?![ \t]*\n))"

#: Where a token may begin. The search is fast as each alternative begins with a certain character.
_SPECIAL: Final = r"\\\\*|<(?=[\w.+/!?-])|\$|!\[|\][(:]|~~~+"
_TOKEN: Final = (
    rf"(?P<inert>{_INERT_HTML})"
    r"|(?<!!)<(?P<autolink>(?i:https?://|mailto:)[^\s<>()\[\]\"`$\\]+)>"
    r"|(?<!!)<(?P<email>[\w.+-]+@[\w-]+(?:\.[\w-]+)+)>"
    rf"|(?P<tag>\\*(?!{_INERT_HTML})<(?=[A-Za-z/!?]))"
    r"|(?P<image>(?<!!)!\[(?=[^\[\]\n]*\]\())"
    r"|(?P<bang>\\*!\[)"
    rf"|(?P<link>\]\((?!{_LINK_REST}))"
    rf"|(?P<definition>\]:(?!{_DEFINITION_REST}))"
    rf"|\$\$(?P<display>{_TEX}+?)(?<!\\)\$\$(?!\$)"
    rf"|\$(?=[^\s$])(?P<inline>{_TEX_LINE}+?)(?<![\s\\])\$(?![\d$])"
    rf"|\\\[(?P<bracket>{_TEX_BRACKET}+?)\\\](?!\()"
    rf"|\\\((?P<paren>{_TEX_LINE}+?)\\\)"
    rf"|\\begin\{{(?P<env>[A-Za-z]*\*?)\}}(?P<body>{_TEX}{{0,4000}}?)\\end\{{(?P=env)\}}"
    rf"|(?P<command>\\+(?=(?:begin|end)\{{|{_MACRO}))"
    r"|(?P<latex>\\{2,}(?=[()\[\]]))"
    r"|(?P<dollar>\\*\$)"
    r"|(?P<fence>~{3,})"
)
_UNSAFE_TEX: Final = rf"\\{_MACRO}|&#"
_NO_BRACE: Final = r"(?i)\\(?:begin|end)\{[a-z]*\*?\}|\\[{}]|[^{}]+"
_TEX_GAP: Final = r"<(?=[A-Za-z/!?])|!(?=\[)|\](?=[(:])"


def safe_markdown(text: str) -> str:
    """Return model text as Markdown that runs, loads and hides nothing, and looks as it was meant.

    Links go to ``http(s)``, ``mailto`` or a relative place; every other target is shown as text. A
    fence that is still open (a stream) is closed. Plain prose comes back as it is.

    Args:
        text: Markdown as a model wrote it.
    """
    return neutralise(printable(text))


def neutralise(text: str) -> str:
    """Return printable text with what could run, load or hide made harmless; see `safe_markdown`."""
    if not any(map(text.__contains__, RISKY)):
        return text
    if any(map(text.__contains__, ("`", "\t", "    "))) and re.search(_OTHER_CODE, text):
        text = _plainly_coded(text)
    many_dollars = text.count("$") > 1 or ("$" in text and ("\\(" in text or "\\[" in text))
    out: list[str] = []
    pos = 0
    opens = re.compile(_FENCE_OPENS) if "```" in text or "~~~" in text else None
    while opens and (opening := opens.search(text, pos)):
        out.append(_prose(text[pos : opening.start()], many_dollars=many_dollars))
        fence = opening["fence"]
        margin = " {0,3}" if not opening["prefix"] else "[ \t>]*"
        closes = re.compile(rf"^({margin}){fence[0]}{{{len(fence)},}}[ \t]*$", re.MULTILINE)
        closing = closes.search(text, opening.end())
        code = text[opening.end() + 1 : closing.start() if closing else len(text)]
        pos = closing.end() if closing else len(text)
        if opening["prefix"]:
            source = text[opening.start() : pos]
            out.append(_contained_fence(opening, code, closing[1] if closing else None, source))
            continue
        line_before = text[text.rfind("\n", 0, max(opening.start() - 1, 0)) + 1 : opening.start()]
        if line_before.strip(" \t\n"):
            out.append("\n")
        out.append(fenced(code, opening["info"], ticks=len(fence) if fence[0] == "`" else 3))
        if not re.compile(_BLANK_LINE_NEXT).match(text, pos + 1) and pos < len(text):
            out.append("\n")
    out.append(_prose(text[pos:], many_dollars=many_dollars))
    return "".join(out)


def _plainly_coded(text: str) -> str:
    """Return the text with its indented code as fences, and each code span on one line."""
    lines = text.split("\n")
    for token in reversed(_blocks().parse(text)):
        if token.type == "code_block" and any(map(token.content.__contains__, RISKY)):
            start, end = token.map
            code = token.content.rstrip("\n")
            lines[start:end] = [_code_block(code, lines[start], level=token.level)]
        elif token.type == "inline" and "\n" in token.content and "`" in token.content:
            _join_spans(lines, token.map[0], token.content)
    return "\n".join(lines)


def _code_block(code: str, line: str, *, level: int) -> str:
    if not level:
        return f"{fenced(code)}\n"
    first = code.partition("\n")[0]
    prefix = line.expandtabs(4)[: -len(first.expandtabs(4)) - 4] if line.endswith(first) else ""
    return f"{prefix}<pre><code>{_encoded(code)}</code></pre>"


def _join_spans(lines: list[str], start: int, content: str) -> None:
    """Put each code span of a paragraph, whose lines begin there, on one line."""
    joined: list[str] = []
    pos = 0
    while found := re.compile(_SPAN_OPENS).search(content, pos):
        ticks = found["ticks"]
        closing = ticks and re.compile(rf"(?<!`){ticks}(?!`)").search(content, found.end())
        end = closing.end() if closing else found.end()
        joined += content[pos : found.start()], content[found.start() : end].replace("\n", "\0")
        pos = end
    whole = "".join((*joined, content[pos:]))
    if "\0" not in whole:
        return
    parts = content.split("\n")
    raw = lines[start : start + len(parts)]
    matched = [line.rstrip().endswith(part.rstrip()) for line, part in zip(raw, parts, strict=False)]
    if not all(matched) or len(matched) < len(parts):
        return
    at, new = 0, []
    for part in whole.split("\n"):
        line, first = raw[at].rstrip(), parts[at].rstrip()
        new.append(line[: len(line) - len(first)] + re.sub("\0[ \t]*", " ", part))
        at += 1 + part.count("\0")
    lines[start : start + len(parts)] = new


@cache
def _blocks() -> Any:
    """Return a parser of CommonMark's blocks alone."""
    from markdown_it import MarkdownIt  # 40 ms that few answers need

    return MarkdownIt("commonmark").enable("table").disable(["inline", "text_join"])


def _encoded(code: str) -> str:
    return re.sub(_PUNCTUATION, entity, code)


def _contained_fence(opening: re.Match[str], code: str, closing_prefix: str | None, source: str) -> str:
    """A fence in a list item or quotation: as it is when all parsers must agree on it and it is harmless."""
    prefix = re.sub(r"[^>\s]", " ", opening["prefix"])
    lines = code.splitlines()
    agreed = (
        closing_prefix == prefix
        and "\t" not in prefix
        and all(line.startswith(prefix) or line.rstrip() == prefix.rstrip() for line in lines)
        and not re.search(_FENCE_RUN, code)
        and re.fullmatch(r" ?[\w+#.-]*", opening["info"])
    )
    if agreed and not re.search(_DANGER, code):
        return source
    shown = "".join(_unindented(line, prefix) + "\n" for line in code.split("\n")[: len(lines)])
    return f"{opening['prefix']}<pre><code>{_encoded(shown)}</code></pre>"


def _unindented(line: str, prefix: str) -> str:
    if line.startswith(prefix):
        return line[len(prefix) :]
    kept = line[: len(prefix)].lstrip(" \t>" if ">" in prefix else " \t")
    return kept + line[len(prefix) :]


def _prose(text: str, *, many_dollars: bool) -> str:
    out: list[str] = []
    pos = 0
    if "`" in text:
        # Runs of three are no fence here, and must not become one; without them the search is linear.
        if "```" in text:
            text = "\n".join(map(_without_runs, text.split("\n")))
        for span in re.finditer(_CODE_SPAN, text):
            start = span.start("ticks")
            out += (_plain(text[pos:start], many_dollars=many_dollars), _code_span(span))
            pos = span.end()
    out.append(_plain(text[pos:], many_dollars=many_dollars))
    return "".join(out)


def _without_runs(line: str) -> str:
    """Return a line in which three backticks or more stand nowhere: code with them, or in them, is HTML."""
    runs = [(run.start(), run.end()) for run in re.finditer(_TICK_RUN, line)]
    last = {end - start: at for at, (start, end) in enumerate(runs)}
    out: list[str] = []
    at = pos = 0
    while at < len(runs):
        start, end = runs[at]
        length, at = end - start, at + 1
        if last[length] < at or line[start - 1 : start] == "\\":
            continue
        closing = next(i for i in range(at, len(runs)) if runs[i][1] - runs[i][0] == length)
        at = closing + 1
        if "```" in line[start : runs[closing][1]]:
            out += line[pos:start], _as_html(line[end : runs[closing][0]], line)
            pos = runs[closing][1]
    out.append(line[pos:])
    return re.sub(TICKS, lambda run: _encoded(run[0]), "".join(out))


def _code_span(span: re.Match[str]) -> str:
    code = span["code"]
    if not re.search(_DANGER, code):
        return span[0][len(span["before"]) :]
    line_start = span.string.rfind("\n", 0, span.start("ticks")) + 1
    return _as_html(code, span.string[line_start:])


def _as_html(code: str, line: str) -> str:
    """Return the code of a span in that line as an element, inert wherever it stands."""
    if len(code) > 1 and code[0] == code[-1] == " " and code.strip():
        code = code[1:-1]
    if line.lstrip(" ").startswith("|"):
        code = code.replace("\\|", "|")  # in a table's row the backslash is the table's, not the code's
    return f"<code>{_encoded(code)}</code>"


def _plain(text: str, *, many_dollars: bool) -> str:
    out: list[str] = []
    pos = 0
    math_end = -1
    special = re.compile(_SPECIAL)
    while found := special.search(text, pos):
        start = found.start()
        out.append(text[pos:start])
        token = re.compile(_TOKEN).match(text, start)
        if token is None:
            pos = found.end()
            out.append(found[0])
            continue
        if start == math_end:
            out.append(" ")  # "$a$" and "$b$" side by side would read as "$a", "$$", "b$"
        new, pos = _rewritten(token, many_dollars=many_dollars)
        math_end = pos if new.endswith("$") else -1
        out.append(new)
    out.append(text[pos:])
    return "".join(out)


def _rewritten(token: re.Match[str], *, many_dollars: bool) -> tuple[str, int]:
    """What is written for a token, and where to read on."""
    kind, whole = token.lastgroup or "", token[0]
    end = token.end()
    if kind in _FIXED:
        return _FIXED[kind], end
    if kind in {"display", "inline", "bracket", "paren", "body"}:
        return _mathematics(token, kind)
    if kind in {"autolink", "email"}:
        address = token[kind]
        return f"[{_encoded(address)}]({'mailto:' if kind == 'email' else ''}{address})", end
    if kind == "inert" or (kind == "dollar" and not many_dollars):
        return whole, end
    if kind == "fence":
        return _encoded(whole), end
    backslashes = len(whole) - len(whole.lstrip("\\"))
    if kind in {"command", "latex"}:
        return _apart("\\") * ((backslashes + 1) // 2), end
    escaped = "\\" * (backslashes - backslashes % 2)
    return escaped + {"tag": "&lt;", "bang": "&#33;[", "dollar": _apart("$")}[kind], end


_FIXED: Final = {"image": "[image: ", "link": "]&#40;", "definition": "]&#58;"}


def _apart(char: str) -> str:
    """A character in an element of its own: MathJax does not look for delimiters across elements."""
    return f"<span>&#{ord(char)};</span>"


def _mathematics(token: re.Match[str], kind: str) -> tuple[str, int]:
    tex = token[kind]
    if not _is_sound(tex):
        # Its first delimiter is text; what follows is read again.
        opening = 1 if kind == "inline" else 2
        literal = {"inline": _apart("$"), "display": _apart("$") * 2, "body": _apart("\\")}
        if kind == "body":
            return literal[kind], token.start() + 1
        return literal.get(kind, token[0][:opening]), token.start() + opening
    tex = re.sub(_TEX_GAP, r"\g<0> ", tex)
    if kind == "body":
        return f"\\begin{{{token['env']}}}{tex}\\end{{{token['env']}}}", token.end()
    if kind in {"inline", "paren"}:
        return f"${tex.strip()}$", token.end()
    return f"$${tex}$$", token.end()


def _is_sound(tex: str) -> bool:
    """Whether JupyterLab would end this mathematics where we do (braces balanced), and it sets no links."""
    if not tex.strip() or re.search(_UNSAFE_TEX, tex):
        return False
    depth = 0
    for brace in re.sub(_NO_BRACE, "", tex) if "{" in tex or "}" in tex else "":
        depth += 1 if brace == "{" else -1 if depth else 0
    return depth == 0
