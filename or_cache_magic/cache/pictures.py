"""Figures and pictures of other libraries as PNG: the same bytes each time, or a refusal in two lines.

No library is imported but by who attaches such a value. What one of them raises is a `RequestError`: it was
foreign code, and nothing was sent.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from or_cache_magic.core.media import MAX_PIXELS
from or_cache_magic.core.value_text import is_array, is_of
from or_cache_magic.display.escape import one_line
from or_cache_magic.errors import RequestError

NAME_WIDTH: Final = 120

_SAVE_IT: Final = "save it as a picture in a cell above, and attach that"
_NEEDS_KALEIDO: Final = f"pip install kaleido, which draws plotly's figures; or {_SAVE_IT}"
_DPI: Final = 100
_PAD_INCHES: Final = 0.1
_MARGINS: Final = {"left": 0.125, "right": 0.9, "bottom": 0.11, "top": 0.88, "wspace": 0.2, "hspace": 0.2}
_COLORBAR: Final = (0.8, 0.1, 0.05, 0.8)


def refused(what: str, why: str, hint: str) -> RequestError:
    """Return the error that something can't be attached, to be raised."""
    shown = one_line(what, NAME_WIDTH)
    return RequestError(f"{shown} can't be attached{f': {why}' if why else ''} (nothing was sent)", hint)


def check_pixels(width: float, height: float, name: str) -> None:
    """Raise `RequestError` for a picture without pixels, or with too many."""
    width, height = int(width), int(height)
    if not width * height:
        raise refused(name or "this picture", "it has no pixels", "look at it in a cell above")
    if width * height > MAX_PIXELS:
        raise refused(
            name or "this picture",
            f"{width:,} x {height:,} pixels are over the limit of {MAX_PIXELS // 10**6} million",
            "shrink it: image.thumbnail((2000, 2000)), or a smaller figsize",
        )


@contextmanager
def foreign(name: str, hint: str, done: str = "drawn") -> Iterator[None]:
    """Make a `RequestError` of whatever a foreign library raises within."""
    try:
        yield
    except RequestError:
        raise
    except Exception as problem:  # noqa: BLE001 - of any class, MemoryError too
        why = one_line(str(problem).strip(), NAME_WIDTH) or type(problem).__name__
        raise refused(name, f"it can't be {done}: {why}", hint) from None


def png_of(value: Any, name: str) -> bytes | None:
    """Return a figure or a picture as PNG; None for any other value.

    Args:
        value: A figure of matplotlib, seaborn or plotly, or what is drawn in one; a picture of PIL.
        name: What people know it by.

    Raises:
        RequestError: It can't be drawn, is too large, or has colours that no PNG has.
    """
    with foreign(name or "the figure", _SAVE_IT):
        figure = _figure(value)
        if figure is not None:
            return _drawn(figure, name)
    if is_of(value, "plotly", "BaseFigure"):
        with foreign(name or "a plotly figure", _NEEDS_KALEIDO):
            layout = getattr(value, "layout", None)
            sides = [getattr(layout, side, None) or 1 for side in ("width", "height")]
            check_pixels(sides[0], sides[1], name)
            return bytes(value.to_image(format="png", scale=1))
    if is_of(value, "PIL", "Image"):
        with foreign(name or "the picture", _SAVE_IT):
            return _pil_png(value, name)
    return None


# Figures


def _figure(value: Any) -> Any:
    """Return the whole figure of matplotlib that a value is, or is drawn in; None when it is none."""
    if is_array(value) and value.size and value.dtype == object:
        value = value.flat[0]  # what plt.subplots and df.plot(subplots=True) give
    if not is_of(value, "matplotlib", "FigureBase", "Artist"):
        value = vars(value).get("_figure") if is_of(value, "seaborn", "Grid") else None
    while value is not None and not is_of(value, "matplotlib", "Figure"):
        value = getattr(value, "figure", None)
    return value


def _drawn(figure: Any, name: str) -> bytes:
    """Return a figure as PNG: the same bytes for the same figure, shown before or not, on any day."""
    written = io.BytesIO()
    with _left_as_it_is(figure):
        figure._set_dpi(_DPI, forward=False)  # noqa: SLF001 - without a redraw of what is on the screen
        width, height = figure.get_size_inches() * _DPI
        check_pixels(width, height, name)  # before anything of that size is made
        _begin_anew(figure)
        figure.draw_without_rendering()  # once more below: from then on a layout moves nothing
        box = figure.get_tightbbox().padded(_PAD_INCHES)
        check_pixels(box.width * _DPI, box.height * _DPI, name)
        figure.savefig(
            written,
            format="png",
            dpi=_DPI,
            bbox_inches="tight",
            pad_inches=_PAD_INCHES,
            facecolor=figure.get_facecolor(),
            edgecolor="none",
            transparent=False,
            metadata={"Software": None},
        )
    return written.getvalue()


@contextmanager
def _left_as_it_is(figure: Any) -> Iterator[None]:
    """Put back what drawing a figure changes in it: where its axes stand, what they show, its resolution."""
    spacing, dpi = dict(vars(figure.subplotpars)), figure.dpi
    places = [
        (axes, axes.get_position(original=True).frozen(), axes._position.frozen(), axes.viewLim.frozen())  # noqa: SLF001
        for axes in figure.axes
    ]
    try:
        yield
    finally:
        vars(figure.subplotpars).update(spacing)
        figure._set_dpi(dpi, forward=False)  # noqa: SLF001
        for axes, original, active, limits in places:
            axes._set_position(original)  # noqa: SLF001 - the public one takes axes out of their layout
            axes._set_position(active, "active")  # noqa: SLF001
            axes.viewLim.set(limits)


def _begin_anew(figure: Any) -> None:
    """Have a layout begin where that of a new figure does: it goes on from where the last drawing left it."""
    for axes in figure.axes:
        if axes.get_aspect() != "auto" and axes.get_adjustable() == "datalim":
            axes.autoscale_view()  # each drawing widens the limits
    if getattr(figure, "get_layout_engine", lambda: None)() is None:  # from matplotlib 3.6 on
        return
    vars(figure.subplotpars).update(_MARGINS)
    for axes in figure.axes:
        place = axes.get_subplotspec()
        if place is not None and axes.get_in_layout():
            axes._set_position(place.get_position(figure))  # noqa: SLF001
        elif hasattr(axes, "_colorbar_info"):
            axes._set_position(_COLORBAR)  # noqa: SLF001


# Pictures of PIL

_LOSSLESS: Final = {
    **{mode: mode for mode in ("1", "L", "LA", "RGB", "RGBA", "I;16")},
    **dict.fromkeys(("P", "PA"), "RGBA"),
    **dict.fromkeys(("I", "I;16B", "I;16L"), "I;16"),
}
"""Modes that PNG has, and those that one of these holds without loss."""

_MOST_16: Final = 0xFFFF
_SCALE: Final = "scale it to 0-255: Image.fromarray((255 * (a - a.min()) / np.ptp(a)).astype('uint8'))"
_HINTS: Final = {
    **dict.fromkeys(("F", "I"), _SCALE),
    "La": "attach image.convert('LA')",
    "RGBa": "attach image.convert('RGBA')",
}


def _pil_png(image: Any, name: str) -> bytes:
    """Return a picture as PNG, right side up; one that would lose something is refused."""
    check_pixels(image.width, image.height, name)
    from PIL import ImageOps

    written = io.BytesIO()
    image = ImageOps.exif_transpose(image)  # a PNG does not say which side is up
    image = _in_a_mode_of_png(image, name or "this picture")
    image.save(written, "PNG", icc_profile=None)
    return written.getvalue()


def _in_a_mode_of_png(image: Any, name: str) -> Any:
    """Return a picture in a mode that PNG has, with all that it holds."""
    mode, other = image.mode, "attach image.convert('RGB')"
    target = _LOSSLESS.get(mode)
    if mode in ("P", "PA"):
        indices, palette = image.getextrema(), image.palette
        most = indices[1] if mode == "P" else indices[0][1]
        if most >= len(palette.palette) // len(palette.mode):
            raise refused(name, "its palette lacks colours that its pixels name", other)
    if target == "I;16" != mode:
        image = image.convert("I")
        low, high = image.getextrema()
        target = target if 0 <= low <= high <= _MOST_16 else None
    if target is None:
        raise refused(name, f"no PNG holds its mode {mode} without loss", _HINTS.get(mode, other))
    return image if image.mode == target else image.convert(target)
