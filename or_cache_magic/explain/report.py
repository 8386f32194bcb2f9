"""`Report`: what a notebook asked of which models, for a methods section and its supplement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.core.code_secrets import has_password, hidden_in_message, without_tokens
from or_cache_magic.core.options import shown
from or_cache_magic.display.document import (
    LATEX_PACKAGES,
    Block,
    Quote,
    Rows,
    Words,
    each_text,
    latex_of,
    markdown_of,
)
from or_cache_magic.display.escape import fenced, one_line
from or_cache_magic.errors import OptionError
from or_cache_magic.explain.report_facts import Facts, facts_of
from or_cache_magic.explain.report_text import Pack, sections

if TYPE_CHECKING:
    import os

    from or_cache_magic.cache.cache import CompletionCache

FORMATS: Final = ("markdown", "latex")
_MOST_SHOWN: Final = 50
"""So many rows of a table, and so many quotes, are shown in a notebook; a file has all."""

_HEAD: Final = (
    f"% Read it by \\input; it needs \\usepackage{{{','.join(LATEX_PACKAGES)}}}.\n"
    "% Prompts with other letters than Latin ones need LuaLaTeX or XeLaTeX, and a font that has them.\n\n"
)


@dataclass(frozen=True, slots=True)
class Report:
    """What a notebook asked of which models, and at what cost; a notebook shows it.

    Of the same cache it is the same text.

    Attributes:
        notebook: Whose, as the ledger names it; empty is the whole folder.
        keys: Of its entries, 64 hex digits each: ``orc.export(path, *report.keys)`` writes their pack.
        pack_sha256: The digest of that pack's bytes; empty is unknown.
        blocks: Its parts.
        format: In which it is shown and printed: ``markdown`` or ``latex``.
    """

    notebook: str
    keys: tuple[str, ...]
    pack_sha256: str
    blocks: tuple[Block, ...]
    format: str = "markdown"

    @property
    def markdown(self) -> str:
        """The whole report as Markdown."""
        return markdown_of(self.blocks)

    @property
    def latex(self) -> str:
        """The whole report as LaTeX, to be read by another document."""
        return _HEAD + latex_of(self.blocks)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the report, as LaTeX where the file's name ends in ``.tex``, and return the path.

        Raises:
            OptionError: It can't be written.
        """
        file = Path(path).expanduser()
        text = self.latex if file.suffix.lower() == ".tex" else self.markdown
        try:
            file.write_bytes(text.encode())
        except OSError as exc:
            raise OptionError(
                f"{one_line(str(file), 200)} can't be written: {exc.strerror}", "name another file"
            ) from None
        return file

    def __str__(self) -> str:
        return self.latex if self.format == "latex" else self.markdown

    def __repr__(self) -> str:
        return f"<report of {self.notebook or 'the whole folder'}: {len(self.keys):,} entries>"

    def _repr_markdown_(self) -> str:
        brief = tuple(_brief(self.blocks))
        return fenced(latex_of(brief), "latex") if self.format == "latex" else markdown_of(brief)


def _brief(blocks: Iterable[Block]) -> Iterator[Block]:
    """Yield what a notebook shows of a long report."""
    quotes = 0
    for block in blocks:
        quotes += isinstance(block, Quote)
        if quotes > _MOST_SHOWN:
            yield Words("It goes on: its save(path) writes all of it into a file.")
            return
        if isinstance(block, Rows) and len(block.rows) > _MOST_SHOWN:
            block = block._replace(  # noqa: PLW2901
                rows=block.rows[:_MOST_SHOWN], left_out=len(block.rows) - _MOST_SHOWN
            )
        yield block


def report(
    cache: CompletionCache,
    notebook: str | os.PathLike[str] | None,
    *,
    format: str = "markdown",  # noqa: A002 - what it is called
    secret: str = "",
    digest: Callable[[CompletionCache, Sequence[str] | None, str], Any],
) -> Report:
    """Return the report of a notebook; see `CompletionCache.report`.

    Args:
        cache: Where it was asked.
        notebook: Whose; None is the notebook of this cache's session, or where there is none all.
        format: See `Report`.
        secret: The OpenRouter key in use, which stands nowhere in a report.
        digest: Returns what a pack of these keys would be; see `replay.packs.pack_digest`.

    Raises:
        OptionError: There is no such notebook or format, or nothing was asked.
        StoreError: The cache can't be read.
    """
    if format not in FORMATS:
        raise OptionError(f"format={shown(format)} is none", "write 'markdown' or 'latex'")
    from importlib.metadata import version

    name = cache.ledger.notebook if notebook is None else _name(cache, notebook)
    facts = facts_of(cache, name)
    if not facts.rows and not facts.given:
        raise OptionError(
            "nothing was asked yet, so there is nothing to report", "ask with %%openrouter first"
        )
    pack = _pack(lambda keys: digest(cache, keys, secret), facts)

    @lru_cache(maxsize=10_000)  # most cells of tables are alike
    def hidden(text: str) -> str:
        return hidden_in_message(text, secret) if has_password(text) else without_tokens(text, secret)

    made = sections(facts, version("or-cache-magic"), pack)
    blocks = tuple(each_text(block, hidden) for block in made)
    return Report(facts.notebook, facts.keys, pack.sha256, blocks, format)


def _pack(digest: Callable[[Sequence[str] | None], Any], facts: Facts) -> Pack:
    """Return the pack of these facts' entries; of a folder, of all that it has."""
    if facts.notebook and not facts.keys:
        return Pack("", why="no answer is kept that is served")
    try:
        found = digest(facts.keys if facts.notebook else None)
    except OptionError as exc:
        return Pack("", why=str(exc.args[0]).partition("; nothing was")[0])
    return Pack(found.sha256, found.size_bytes, found.entries, found.history)


def _name(cache: CompletionCache, notebook: str | os.PathLike[str]) -> str:
    """Return a notebook as the ledger may name it: an absolute path from the cache's parent folder."""
    path = Path(notebook).expanduser()
    if not path.is_absolute():
        return str(notebook)
    home = cache.directory.absolute().parent
    return (path.relative_to(home) if path.is_relative_to(home) else path).as_posix()
