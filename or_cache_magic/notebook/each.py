"""``%%openrouter --each NAME``: the cell's prompt for each row of a table of the notebook."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from or_cache_magic.errors import OptionError, near_name, says_where
from or_cache_magic.tables.map import map_rows

if TYPE_CHECKING:
    from or_cache_magic.notebook.session import Session

_ALONE: Final = (
    ("raw", "--raw", "it fills {{ row.x }} in"),
    ("cascade", "--cascade", "ask again with --refresh"),
    ("format", "-f", "--schema has a column for each field"),
)
"""What does not go with ``--each``, and why or what does."""


def ask_each(
    session: Session,
    options: SimpleNamespace,
    prompt: str,
    asked: Mapping[str, Any],
    variables: Mapping[str, Any],
) -> Any:
    """Ask for each row, and bind the table; an interrupt leaves it in ``_`` as far as it came.

    With ``--batch`` the rows are submitted, and the `Batch` is what is bound.

    Args:
        session: What the magics share.
        options: Of the cell.
        prompt: The template; a column comes before a variable of its name.
        asked: The arguments of `CompletionCache.ask`, for all rows.
        variables: The notebook's.

    Returns:
        What was bound where it is to be shown, or the caller goes on with it; None where it was shown.

    Raises:
        InputError: It can't be asked so. Nothing was sent.
    """
    data = _data_of(options, variables)
    cache, stable = session.cache(), session.settings().receipt == "stable"
    try:
        table = map_rows(
            cache,
            data,
            prompt,
            model=options.model,
            sample=options.sample,
            **asked,
            **options.params,
            max_cost_usd=options.max_cost_usd,
            limit=options.limit,
            batch=options.batch,
            dry_run=options.dry_run,
            progress=not options.quiet or options.dry_run,
            variables=variables,
            tell=session.say,
        )
    except BaseException as exc:
        leave_table(exc, session.shell)
        raise
    for notice in cache.database.pop_notices():
        session.say(notice)
    if options.dry_run:
        return None
    session.last = table
    if options.out:
        session.shell.push({options.out: table})
    if hasattr(table, "iloc") and hasattr(table, "columns"):
        return session.give(table, as_text=stable)
    return table


def leave_table(stopped: BaseException, shell: Any) -> None:
    """Make the table of what stopped, as far as it came, `_` and ``Out[n]``, and have it say so."""
    table = getattr(stopped, "table", None)
    if table is not None:
        shell.displayhook.update_user_ns(table)
        says_where(stopped, "_")


def _data_of(options: SimpleNamespace, variables: Mapping[str, Any]) -> Any:
    """Return the table or list that ``--each`` names."""
    for field, name, why in _ALONE:
        if getattr(options, field):
            raise OptionError(f"--each does not go with {name}; nothing was sent", why)
    if isinstance(options.sample, range) or "," in (options.model or ""):
        raise OptionError("--each goes with one model and one sample; nothing was sent", "one cell for each")
    name = options.each
    if name not in variables:
        near = near_name(name, variables)
        raise OptionError(
            f"{name} is not defined; nothing was sent",
            f"did you mean {near}?" if near else "name a DataFrame, a Series or a list of a cell above",
        )
    return variables[name]
