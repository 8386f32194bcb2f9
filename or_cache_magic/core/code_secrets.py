"""Take secrets out of code and messages: by the names that texts are given to, and by how keys look.

Rather a text too many is hidden than one too few: what is left goes to a model.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from or_cache_magic.core.secrets import looks_like_key, redacted_text, without

_HIDDEN: Final = "…"
_NAMED_SO: Final = r"(?:key|token|secret|passw|passphrase|pwd|credential|auth(?!or))"
_LONGEST_NAME: Final = 80
_NAME: Final = re.compile(rf"(?i)[\w. -]*{_NAMED_SO}[\w. -]*(?<!error)(?<!exception)")
_REST_OF_NAME: Final = r"""[\w-]{0,60}(?<!error)\\?["']?\]?\s{0,9}"""
_GIVEN: Final = re.compile(
    rf"""(?ix) ({_NAMED_SO}{_REST_OF_NAME} (?: [=:]|%3D ) \s{{0,9}} [bru]{{0,2}})
    (?: (?P<quote>\\?["'])(?:(?!(?P=quote))(?:\\.|[^\n\\]))+ | [^\s"'&;,(){{}}\[\]]+ )"""
)
_FORMS: Final = r"""(?:gh[pousr]|hf|gsk|r8)_[A-Za-z0-9]{10,} | github_pat_\w{10,}
    | (?:glpat|xox[a-z])-[\w-]{10,} | [spr]k_(?:live|test)_\w{8,} | AKIA[0-9A-Z]{12,} | AIza[\w-]{20,}
    | eyJ[\w-]{8,}\.[\w.-]+ | npm_[A-Za-z0-9]{30,} | dckr_pat_[\w-]{20,} | pypi-[\w-]{30,}
    | SG\.[\w-]{16,}\.[\w-]{16,} | (?<=AccountKey=)[A-Za-z0-9+/]{40,}={0,2}"""
_TOKENS: Final = re.compile(rf"(?x) (?<![A-Za-z0-9]) (?: {_FORMS} )")
_KEYS: Final = re.compile(
    rf"(?x) (?<![A-Za-z0-9]) (?: {_FORMS} | (?=[a-fA-F]{{0,31}}[0-9])[0-9a-fA-F]{{32,}} )"
)
_PRIVATE: Final = re.compile(r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|\Z)")
_STRING: Final = r"""(?:\"{3}.*?(?:\"{3}|\Z)|'{3}.*?(?:'{3}|\Z)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?)"""
_PIECES: Final = re.compile(
    rf"""(?isx) (?P<text>{_STRING}) | (?P<name>\w+) | (?P<end>(?<![(\[{{,=\\])\n(?!\s*[bruf]{{0,2}}["']))"""
)
_COMMENT: Final = re.compile(r"#.*")


_PASSWORD: Final = re.compile(
    r"""(?ix) (?<![a-z0-9]) [a-z][a-z0-9+.-]{0,20} :// [^\s:/@"'<>]{0,100} :
      (?P<login> [^\s/@"'<>]{1,200} ) @ [\w.-]
    | (?: passw(?:or)?d | passphrase | \bpwd
        | (?P<long> token | secret | (?: api | access | secret | auth ) [_-]? key ) )
      \\?["']? \]? [ \t]{0,3} (?: [:=] | %3D ) [ \t]{0,3} \\?["']?
      (?P<value> [^\s"'`&;,(){}\[\]<>$*%\\….:=] [^\s"'`&;,(){}\[\]<>\\…]{5,200} )"""
)
_NO_VALUE: Final = re.compile(
    r"(?ix) ^ (?: pass | passw(?:or)?d | pwd | secret | token | [\[{$%*].* | [a-z_]\w* (?: \.[a-z_]\w* )+ ) $"
    r"| your | example | placeholder | x{3} | \*{3} | \.{3} | …"
)
"""What stands for a password without being one, or is code that gives it."""

_LONG_VALUE: Final = 8


def names_secret(name: str) -> bool:
    """Return whether a variable of this name may hold a secret.

    >>> names_secret("HF_TOKEN"), names_secret("db_password"), names_secret("author")
    (True, True, False)
    """
    return len(name) <= _LONGEST_NAME and _NAME.fullmatch(name) is not None


def without_tokens(text: str, secret: str = "") -> str:
    """Return a text without keys and tokens of known forms, private keys, and `secret`; all else as it was.

    For texts that are to be kept: what is only called a key stays, and so do digests.

    >>> without_tokens("hf_0123456789abcdef, md5 d41d8cd98f00b204e9800998ecf8427e, key=abcdef")
    '…, md5 d41d8cd98f00b204e9800998ecf8427e, key=abcdef'
    """
    if looks_like_key(text):
        text = re.sub(r"(?i)\bsk-[\w-]{20,}", _HIDDEN, text)
    return _TOKENS.sub(_HIDDEN, _PRIVATE.sub(_HIDDEN, without(text, secret)))


def has_password(text: str) -> bool:
    """Return whether a text has a password in a URL, or gives a name of one a value that has a digit.

    For prompts that go to others. Code that gets a password, and what only stands for one, are none.

    >>> [*map(has_password, ("postgres://me:pw@db/x", "password=hunter2", "password=getpass()"))]
    [True, True, False]
    """
    return any(
        _is_given(found, text) if found["login"] is None else not _NO_VALUE.search(found["login"])
        for found in _PASSWORD.finditer(text)
    )


def _is_given(found: re.Match[str], text: str) -> bool:
    value = found["value"]
    if text[found.end() : found.end() + 1] in ("(", "[") or _NO_VALUE.search(value):
        return False
    digits = sum(map(str.isdigit, value))
    return digits > 0 and (not found["long"] or digits < len(value) >= _LONG_VALUE)


def hidden_in_message(text: str, secret: str = "") -> str:
    """Return a message without what looks like a secret or is given to a name of one.

    >>> hidden_in_message("no reply from http://h/?api_key=abcdef&n=1 (host=db password=hunter2)")
    'no reply from http://h/?api_key=…&n=1 (host=db password=…)'
    """
    text = _PRIVATE.sub(_blank, redacted_text(text, secret))
    text = _GIVEN.sub(lambda found: f"{found[1]}{found['quote'] or ''}{_HIDDEN}", text)
    return _KEYS.sub(_HIDDEN, text)


def hidden_in_code(code: str, secret: str = "") -> str:
    """Return code without its secrets, with as many lines as before.

    >>> hidden_in_code("login(user='me', password='pw'); os.environ['HF_TOKEN'] = f'hf_{0}'; d['name'] = 'x'")
    "login(user='me', password='…'); os.environ['HF_TOKEN'] = f'…'; d['name'] = 'x'"
    """
    code = code.replace("\r\n", "\n").replace("\r", "\n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of literals that are odd
            tree = ast.parse(code)
        code = _without_given(code, tree, secret)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        code = "".join(_without_lines_given(code, secret))
    code = _COMMENT.sub(lambda found: hidden_in_message(found[0], secret), code)
    return _KEYS.sub(_HIDDEN, _PRIVATE.sub(_blank, redacted_text(code, secret)))


def _blank(found: re.Match[str]) -> str:
    return _HIDDEN + "\n" * found[0].count("\n")


def _blank_string(text: str) -> str:
    """Return a literal with nothing in it, in as many lines."""
    prefix = re.match(r"[A-Za-z]*", text)
    start = prefix[0] if prefix else ""
    quote = text[len(start) : len(start) + 1]
    return (
        text
        if text[len(start) :] == quote * 2
        else f"{start}{quote}{_HIDDEN}{quote}" + "\n" * text.count("\n")
    )


def _without_lines_given(code: str, secret: str) -> Iterator[str]:
    """Yield code that can't be compiled: a line has no literal behind the name of a secret."""
    is_named, done = False, 0
    for piece in _PIECES.finditer(code):
        now = piece[0]
        if piece["end"]:
            is_named = False
        elif piece["text"] and is_named:
            now = _blank_string(now)
        elif piece["text"]:
            is_named = names_secret(now.strip("\"'"))
            now = hidden_in_message(now, secret)
        else:
            is_named = is_named or names_secret(now)
        yield code[done : piece.start()] + now
        done = piece.end()
    yield code[done:]


def _without_given(code: str, tree: ast.AST, secret: str) -> str:
    lines = [line + b"\n" for line in code.encode("utf-8", "replace").split(b"\n")]
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    raw = b"".join(lines)[:-1]
    given = {
        (at.lineno, at.col_offset)
        for node in ast.walk(tree)
        for value in _given(node)
        for at in _texts(value)
    }
    edits: dict[int, tuple[int, str]] = {}
    for text in _texts(tree, slices=True):
        start, end = (
            starts[text.lineno - 1] + text.col_offset,
            starts[(text.end_lineno or 1) - 1] + (text.end_col_offset or 0),
        )
        was = raw[start:end].decode("utf-8", "replace")
        is_given = (text.lineno, text.col_offset) in given
        edits[start] = (end, _blank_string(was) if is_given else hidden_in_message(was, secret))
    for start, (end, now) in sorted(edits.items(), reverse=True):
        raw = raw[:start] + now.encode("utf-8", "replace") + raw[end:]
    return raw.decode("utf-8", "replace")


def _texts(node: ast.AST, *, slices: bool = False) -> Iterator[ast.Constant | ast.JoinedStr]:
    """Yield the literal texts in an expression; those in ``[…]`` behind a name only with ``slices``."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.JoinedStr) or (
            isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes))
        ):
            yield node
        elif isinstance(node, ast.Subscript) and not slices:
            waiting.append(node.value)
        else:
            waiting += ast.iter_child_nodes(node)


def _given(node: ast.AST) -> Iterator[ast.AST]:  # noqa: C901 - a case for each way to give a value
    """Yield the expressions that a node gives to, or compares with, the name of a secret."""
    match node:
        case ast.Assign(targets=targets, value=value) if any(map(_names_secret, targets)):
            yield value
        case ast.AnnAssign(target=target, value=ast.expr() as value) if _names_secret(target):
            yield value
        case ast.AugAssign(target=target, value=value) | ast.NamedExpr(target=target, value=value):
            if _names_secret(target):
                yield value
        case ast.For(target=target, iter=value) | ast.comprehension(target=target, iter=value):
            if _names_secret(target):
                yield value
        case ast.keyword(arg=str(name), value=value) if names_secret(name):
            yield value
        case ast.Dict(keys=keys, values=values):
            yield from (
                value
                for key, value in zip(keys, values, strict=True)
                if key is not None and _names_secret(key)
            )
        case ast.Compare(left=left, comparators=others) if any(map(_names_secret, (left, *others))):
            yield from (left, *others)
        case ast.Call(func=func, args=args):
            yield from args if _names_secret(func) else _after_names(args)
        case ast.Tuple(elts=items) | ast.List(elts=items):
            yield from _after_names(items)
        case ast.arguments(
            posonlyargs=first, args=args, defaults=defaults, kwonlyargs=only, kw_defaults=last
        ):
            named = [*zip([*first, *args][::-1], defaults[::-1], strict=False), *zip(only, last, strict=True)]
            yield from (value for arg, value in named if value is not None and names_secret(arg.arg))


def _after_names(items: list[ast.expr]) -> Iterator[ast.expr]:
    for name, value in pairwise(items):
        if isinstance(name, ast.Constant) and _names_secret(name):
            yield value


def _names_secret(target: ast.AST) -> bool:
    """Return whether what is given a value, or a key, is named as a secret."""
    match target:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Constant(value=str(name)):
            return names_secret(name)
        case ast.Subscript(value=value, slice=key):
            return _names_secret(key) or _names_secret(value)
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return any(map(_names_secret, items))
        case ast.Starred(value=value):
            return _names_secret(value)
    return False
