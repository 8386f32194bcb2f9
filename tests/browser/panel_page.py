"""The panel as it is on the screen: where its controls are, by the names that a user reads."""

from __future__ import annotations

import re
from typing import Any

from .harness import OpenNotebook, expect

__all__ = ["PanelPage"]

CONTRAST = """box => {
    const channels = colour => {
        const canvas = new OffscreenCanvas(1, 1).getContext('2d');
        canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
    const background = node => {
        const layers = [];
        for (let at = node; at; at = at.parentElement) layers.push(channels(getComputedStyle(at).backgroundColor));
        return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
    };
    const opacity = node => {
        let all = 1;
        for (let at = node; at; at = at.parentElement) all *= getComputedStyle(at).opacity;
        return all;
    };
    const light = ([r, g, b]) => [r, g, b]
        .map(c => c / 255).map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const found = [];
    const walker = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const text = walker.currentNode.textContent.trim(), node = walker.currentNode.parentElement;
        if (!text || node.closest('style, .orc-sr, :disabled, title, desc') || !node.checkVisibility()) continue;
        const style = getComputedStyle(node);
        const below = background(node);
        const ink = channels(node.closest('svg') ? style.fill : style.color);
        ink[3] *= opacity(node);
        const [a, b] = [light(over(ink, below)), light(below)].sort((x, y) => y - x);
        const size = parseFloat(style.fontSize);
        const needed = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
        found.push([(a + 0.05) / (b + 0.05), needed, text.slice(0, 60), light(below)]);
    }
    return found;
}"""


class PanelPage:
    """A panel in an open notebook.

    Args:
        opened: The notebook.
        cell: The number of the cell that shows the panel.
    """

    def __init__(self, opened: OpenNotebook, cell: int) -> None:
        self.opened = opened
        self.box = opened.output(cell).locator(".orc")
        self.status = self.box.get_by_role("status").filter(has_text="matching")
        self.alert = self.box.locator(".orc-alert")
        self.head = self.box.locator(".orc-head")
        self.rows = self.box.locator(".orc-row")
        self.detail = self.box.locator(".orc-detail")
        expect(self.status).to_be_visible()

    def field(self, label: str) -> Any:
        """A text field or dropdown."""
        return self.box.get_by_label(label, exact=True)

    def button(self, name: str) -> Any:
        return self.box.get_by_role("button", name=name, exact=True)

    def search(self, text: str) -> None:
        self.field("Search").fill(text)
        self.field("Search").press("Enter")

    def value(self, tile: str) -> Any:
        """What a tile says in large letters."""
        named = self.box.page.locator(f'dt:text-is("{tile}")')
        return self.box.locator(".orc-tile").filter(has=named).locator("dd").first

    def tile(self, name: str) -> str:
        """What a tile says in large letters, now."""
        text: str = self.value(name).inner_text()
        return text

    def column(self, name: str) -> list[str]:
        """What the rows on the screen have in a column; each cell tells its column to screen readers."""
        cells = self.rows.locator(".orc-grid > span").filter(
            has=self.box.page.locator(".orc-sr", has_text=re.compile(rf"^{re.escape(name)}\s*$"))
        )
        # Not `inner_text`: it leaves out what is clipped away.
        return [text.removeprefix(name).strip() for text in cells.all_text_contents()]

    def expect_matching(self, count: int, more: str = "") -> None:
        expect(self.status).to_have_text(re.compile(rf"^\s*{count:,} matching{re.escape(more)}"))

    def contrasts(self) -> list[tuple[float, float, str, float]]:
        """Of each text: contrast, the least that WCAG 2.1 AA (1.4.3) asks for, the text, and how light its ground is."""
        found: list[tuple[float, float, str, float]] = self.box.evaluate(CONTRAST)
        return found
