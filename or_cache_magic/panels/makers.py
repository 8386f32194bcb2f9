"""`Makers`: makes the panel's widgets, which share what they can, and closes them all.

Layouts and styles are models of their own, a kilobyte each on the wire: widgets of a kind share one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import ipywidgets as w

if TYPE_CHECKING:
    from collections.abc import Sequence

_FIELDS: Final = (w.Dropdown, w.Text)
_APART: Final = {"margin": "2px 12px 2px 2px"}


class Makers:
    """Makes widgets that share their layouts and styles."""

    def __init__(self) -> None:
        self._layouts: dict[tuple[tuple[str, str], ...], Any] = {}
        self._styles: dict[type, Any] = {}
        self._made: list[Any] = []

    def make(self, kind: Any, /, *, css: dict[str, str] | None = None, **traits: Any) -> Any:
        """A widget of a kind, with the style of the others of its kind."""
        traits["layout"] = self._layout({**(_APART if kind in _FIELDS else {}), **(css or {})})
        if kind in self._styles:
            traits["style"] = self._styles[kind]
        elif kind in _FIELDS:
            traits["style"] = {"description_width": "initial"}
        widget = self._kept(kind(**traits))
        self._styles[kind] = widget.style
        return widget

    def html(self, value: str = "", **css: str) -> Any:
        """A piece of HTML."""
        return self.make(w.HTML, css=css, value=value)

    def button(self, description: str, **traits: Any) -> Any:
        """A button as wide as its words."""
        kind = {"button_style": "danger"} if traits.pop("danger", False) else {}
        return self.make(w.Button, css={"width": "auto"}, description=description, **kind, **traits)

    def dropdown(self, description: str, options: Sequence[tuple[str, Any]], width: str) -> Any:
        """A dropdown with its name before it; the first option is chosen."""
        return self.make(w.Dropdown, css={"width": width}, description=description, options=list(options))

    def row(self, *children: Any, **options: Any) -> Any:
        """Widgets side by side, with `classes` and CSS; `hidden` until its layout's display is ``flex``."""
        return self._box(w.HBox, children, **options)

    def wrapped(self, *children: Any, **options: Any) -> Any:
        """A row that goes on in the next line where it doesn't fit on one."""
        return self.row(*children, flex_flow="row wrap", align_items="center", **options)

    def column(self, *children: Any, **options: Any) -> Any:
        """Widgets one below the other; options as for `row`."""
        return self._box(w.VBox, children, **options)

    def close(self) -> None:
        """Takes all that was made out of memory, here and in the front end."""
        for widget in (*self._made, *self._styles.values(), *self._layouts.values()):
            widget.close()

    def _box(
        self,
        kind: Any,
        children: Sequence[Any],
        *,
        classes: Sequence[str] = (),
        hidden: bool = False,
        **css: str,
    ) -> Any:
        # What is shown and hidden has a layout of its own.
        layout = self._kept(w.Layout(display="none", **css)) if hidden else self._layout(css)
        # Classes are said here, not by add_class, which would be a second message for each.
        return self._kept(kind(children, layout=layout, _dom_classes=tuple(classes)))

    def _layout(self, css: dict[str, str]) -> Any:
        """The one layout with these properties."""
        key = tuple(sorted(css.items()))
        if key not in self._layouts:
            self._layouts[key] = w.Layout(**css)
        return self._layouts[key]

    def _kept(self, widget: Any) -> Any:
        self._made.append(widget)
        return widget
