"""Figures and pictures of other libraries: the same PNG each time, none that has lost something."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from or_cache_magic.cache.attachments import Source, read_attachments
from or_cache_magic.cache.pictures import png_of
from or_cache_magic.errors import RequestError

mpl.use("Agg")
from matplotlib.figure import Figure

PIL_MODES = sorted({*Image.MODES, "I;16L", "I;16B", "I;16N", "La", "RGBa", "RGBX", "LAB", "HSV"})
TAKEN = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "I", "I;16", "I;16B", "I;16L"}


def refusal(value) -> RequestError:
    """The refusal of a value: two lines, and nothing was sent."""
    with pytest.raises(RequestError, match="nothing was sent") as caught:
        read_attachments(Source(value, "it"))
    assert str(caught.value).startswith("it can't be attached: ")
    assert str(caught.value).count("\n") == 1
    return caught.value


# -- pictures of PIL ------------------------------------------------------------------------------


def picture(mode: str, size: tuple[int, int], raw: bytes) -> Image.Image:
    """A picture of these bytes; a palette has 256 colours."""
    image = Image.frombytes(mode, size, raw)
    if mode in ("P", "PA"):
        image.putpalette([n for at in range(256) for n in (at, 255 - at, 7)])
        assert image.mode == mode
    return image


@pytest.mark.parametrize("mode", PIL_MODES)
@settings(max_examples=25)
@given(st.data())
def test_law__one_changed_pixel_of_every_mode_is_another_key(mode, data):
    """A mode is taken without loss, or refused with what to do."""
    size = len(Image.new(mode, (8, 3)).tobytes())
    raw = data.draw(st.binary(min_size=size, max_size=size))
    at = data.draw(st.integers(0, size - 1))
    changed = raw[:at] + bytes([raw[at] ^ data.draw(st.integers(1, 255))]) + raw[at + 1 :]
    one, other = picture(mode, (8, 3), raw), picture(mode, (8, 3), changed)
    if mode not in TAKEN:
        assert f"mode {mode} without loss" in str(refusal(one))
    elif mode != "I":  # which is taken by its values
        assert png_of(one, "") == png_of(one.copy(), "") != png_of(other, "")


@pytest.mark.parametrize("mode", sorted(TAKEN - {"I"}))
def test_pil__png_has_the_pixels(mode):
    """Read back, they are what they were: alpha, 16 bits, the colours of a palette."""
    image = picture(mode, (8, 2), bytes(range(1, len(Image.new(mode, (8, 2)).tobytes()) + 1)))
    back = Image.open(io.BytesIO(png_of(image, "")))
    same = "I" if mode.startswith("I") else "RGBA"
    assert back.convert(same).tobytes() == image.convert(same).tobytes()


@pytest.mark.parametrize("mode", ["P", "PA"])
def test_pil__pixels_without_a_colour_are_refused(mode):
    """A palette may be shorter than they say: PNG would take another of its colours."""
    image = Image.frombytes(mode, (2, 1), bytes([1, 2, 3, 4][: 2 * len(mode)]))
    image.putpalette([0, 0, 0, 255, 255, 255])
    assert "palette" in str(refusal(image))
    assert "palette" in str(refusal(Image.new(mode, (2, 1))))


def test_pil__32_bits_are_taken_where_16_hold_them():
    """Older Pillow reads every PNG of 16 bits so."""
    values = np.arange(20, dtype=np.int32).reshape(4, 5) * 3000
    back = Image.open(io.BytesIO(png_of(Image.fromarray(values), "")))
    assert np.asarray(back).tolist() == values.tolist()
    for value in (-1, 65536):
        values[1, 2] = value
        assert "uint8" in refusal(Image.fromarray(values)).hint


def broken_pictures():
    written = io.BytesIO()
    Image.effect_noise((90, 90), 50).save(written, "PNG")
    closed = Image.open(io.BytesIO(written.getvalue()))
    closed.close()
    exif, transparency = Image.new("RGB", (2, 2)), Image.new("RGB", (2, 2))
    exif.info["exif"], transparency.info["transparency"] = b"Exif\0\0junk", b"junk"
    return {
        "no pixels": Image.new("RGB", (0, 5)),
        "truncated": Image.open(io.BytesIO(written.getvalue()[:3000])),
        "closed": closed,
        "exif": exif,
        "transparency": transparency,
        "premultiplied": Image.new("La", (2, 2)),
        "floats": Image.new("F", (2, 2)),
    }


def test_pil__what_it_cannot_write_is_refused():
    """Whatever Pillow raises."""
    for image in broken_pictures().values():
        refusal(image)
    assert "scale it to 0-255" in refusal(Image.new("F", (2, 2))).hint
    assert "convert('LA')" in refusal(Image.new("La", (2, 2))).hint


# -- figures --------------------------------------------------------------------------------------


def colorbar(figure):
    axes = figure.subplots()
    figure.colorbar(axes.imshow(np.eye(5)))


def shared_colorbar(figure):
    axes = figure.subplots(1, 2)
    pictures = [one.imshow(np.eye(5)) for one in axes]
    figure.colorbar(pictures[0], ax=axes)


def equal_scales(figure):
    axes = figure.subplots(1, 2)
    axes[0].plot([1, 5], [2, 9])
    axes[0].axis("equal")
    figure.suptitle("Equal")


def subfigures(figure):
    left, right = figure.subfigures(1, 2)
    left.colorbar(left.subplots().imshow(np.eye(4)))
    right.subplots(2, 1)[0].set_ylabel("a\nb")


@pytest.mark.filterwarnings("ignore:This figure includes Axes that are not compatible")
@pytest.mark.parametrize(
    ("draw", "layout"),
    [
        (colorbar, "constrained"),
        (shared_colorbar, "constrained"),
        (equal_scales, "constrained"),
        (subfigures, "constrained"),
        (shared_colorbar, "compressed"),
        (shared_colorbar, "tight"),
        (equal_scales, None),
    ],
)
def test_figure__is_the_same_picture_however_it_was_drawn_before(draw, layout):
    """Not at all, on a screen, in another resolution or size; and nothing in it has moved."""

    def made() -> Figure:
        figure = Figure((4, 3), layout=layout)
        draw(figure)
        for axes in figure.axes:
            axes.locator_params(nbins=1)  # to draw the labels of ticks takes most of the time
        return figure

    def state() -> list:
        return [
            (axes.get_position(original=True).bounds, axes._position.bounds, axes.viewLim.bounds)
            for axes in figure.axes
        ] + [vars(figure.subplotpars), figure.dpi]

    figure = made()
    before = str(state())
    first = png_of(figure, "")
    assert str(state()) == before
    pictures = {first, png_of(figure, ""), png_of(made(), "")}
    figure.draw_without_rendering()
    pictures.add(png_of(figure, ""))
    figure.set_size_inches(3, 5)
    figure.savefig(io.BytesIO(), dpi=41, bbox_inches="tight")
    figure.set_size_inches(4, 3)
    figure.set_dpi(31)
    pictures.add(png_of(figure, ""))
    assert pictures == {first}
    figure.axes[0].plot([0, 1])
    assert png_of(figure, "") != first


def test_figure__pixels_are_counted_before_it_is_drawn(monkeypatch):
    """Its size, and what stands outside of it."""
    monkeypatch.setattr(Figure, "savefig", None)
    assert "30,000 x 30,000 pixels are over the limit" in str(refusal(Figure((300, 300))))
    wide = Figure((2, 2), dpi=5000)
    wide.subplots()
    wide.text(3000, 0.5, "far")
    assert "pixels are over the limit" in str(refusal(wide))
    large = type(
        "BaseFigure", (), {"__module__": "plotly", "layout": pd.Series({"width": 9e3, "height": 9e3})}
    )
    assert "9,000 x 9,000 pixels" in str(refusal(large()))


def test_figure__what_a_library_raises_is_told_in_two_lines(monkeypatch):
    """A formula that is none, an artist that fails, no memory."""
    figure = Figure()
    figure.suptitle(r"$\frac{$")
    assert r"it can't be drawn: \frac{$" in str(refusal(figure)).replace("\\frac{ ", "\\frac{$ ")
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
    assert "it can't be drawn: MemoryError" in str(refusal(Figure()))


# -- tables ---------------------------------------------------------------------------------------


def test_table__with_half_a_character_or_a_failing_value_is_refused():
    """As with figures."""
    assert "half of a surrogate pair" in str(refusal(pd.DataFrame({"a": ["\ud800"]}, dtype=object)))
    with_key = pd.DataFrame({"a": ["sk-or-v1-" + "0" * 64]})
    assert "it holds an API key" in str(refusal(with_key))
    failing = type("Failing", (), {"__str__": lambda _: 1 / 0, "__module__": "__main__"})()
    assert "division by zero" in str(refusal(pd.DataFrame({"a": [failing]})))
