"""Who called a magic, and what becomes of its value there: is it kept, or is showing it all there is to do?

``x = %openrouter …`` goes on with the answer, a bare ``%openrouter …`` is done when it was shown. IPython
runs both as a call in ordinary code, so the answer is in the instruction that follows the call. The source
would not tell it: ``%time`` and its like compile code that has none.
"""

from __future__ import annotations

import dis
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from types import FrameType

    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["deliver", "keeps_result"]

_RUNNERS: Final = ("run_line_magic", "run_cell_magic")
_PRINT: Final = 1
"""The argument of ``CALL_INTRINSIC_1`` that shows an expression's value (Python 3.12 and later)."""


def keeps_result() -> bool:
    """Whether the code that runs the magic goes on with its value: binds, passes or returns it.

    False where the value ends: an expression that stands alone, in a cell, a loop, a function, below
    ``%%time``.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - its documented use: who called
    while frame is not None and frame.f_code.co_name not in _RUNNERS:
        frame = frame.f_back
    caller = frame and frame.f_back
    if caller is None:
        return True
    code, at = caller.f_code.co_code, caller.f_lasti + 2
    while dis.opname[code[at]] == "CACHE":
        at += 2
    following = dis.opname[code[at]]
    if following == "RETURN_VALUE":
        # Only an expression compiled on its own returns from a module: that of %time, which hands it on.
        return caller.f_code.co_name != "<module>"
    shown = following == "CALL_INTRINSIC_1" and code[at + 1] == _PRINT
    return not shown and following not in ("POP_TOP", "PRINT_EXPR")


def deliver(shell: InteractiveShell, value: object) -> None:
    """Makes a value that is on the screen already `_` and ``Out[n]``, as showing it would."""
    hook: Any = shell.displayhook
    hook.update_user_ns(value)
    hook.fill_exec_result(value)
