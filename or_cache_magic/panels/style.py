"""How the panel looks: one sheet, its colours the theme's, so that it is right in light and dark."""

from __future__ import annotations

from typing import Final

STILL: Final = '<span class="orc-still"></span>'
"""Marks the output that is hidden below a live panel."""

# Where a front end names no colours (Colab), what it writes with and shades of grey fit light and dark alike.
# Every rule begins with .orc: JupyterLab has rules of its own for dl, pre and table in an output.
STYLE: Final = """<style>
.orc{--orc-fg:var(--jp-ui-font-color1,inherit);--orc-line:var(--jp-border-color2,rgba(128,128,128,.4));
--orc-bg:var(--jp-layout-color1,transparent);--orc-alt:var(--jp-layout-color2,rgba(128,128,128,.12));
--orc-good:var(--jp-success-color1,#388e3c);--orc-acc:var(--jp-brand-color1,#1976d2);
--orc-bad:var(--jp-error-color1,#d32f2f);--orc-code:var(--jp-code-font-family,monospace);
--orc-cols:76px minmax(80px,1.3fr) minmax(106px,4fr) 82px 92px 32px 82px 66px;
color:var(--orc-fg);overflow:hidden;padding:2px}
.orc .widget-html{height:auto}
.orc .widget-html-content{line-height:1.4;color:var(--orc-fg)}
.orc .orc-sr{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
.orc dl,.orc dt,.orc dd{float:none;width:auto;margin:0;padding:0;font-weight:400}
.orc .orc-tiles{display:flex;gap:10px;flex-wrap:wrap;margin:6px 0}
.orc .orc-tile{border:1px solid var(--orc-line);border-radius:8px;padding:8px 14px;flex:1 1 auto;
background:var(--orc-bg);display:flex;flex-direction:column}
.orc .orc-tile dt{font-size:11px;letter-spacing:.06em;text-transform:uppercase;opacity:.8}
.orc .orc-tile dd{font-size:11.5px;opacity:.85;white-space:nowrap;font-variant-numeric:tabular-nums}
.orc .orc-tile dd.orc-value{font-size:26px;font-weight:600;line-height:1.3;opacity:1}
.orc .orc-saved-tile dd.orc-value{color:var(--orc-good)}
.orc .orc-chart{display:block;width:100%;max-width:760px}
.orc .orc-chart text{fill:currentColor;font-size:10.5px;opacity:.85}
.orc .orc-axis{stroke:var(--orc-line);stroke-width:.6;fill:none}
.orc .orc-area{fill:var(--orc-good);opacity:.18;stroke:none}
.orc .orc-saved{fill:none;stroke:var(--orc-good);stroke-width:1.8;stroke-linejoin:round}
.orc .orc-rate{fill:none;stroke:currentColor;stroke-width:1.2;stroke-dasharray:4 3;opacity:.75}
.orc .orc-key{font-size:11px;display:flex;gap:18px;margin:2px 0 6px 13%}
.orc .orc-key i{display:inline-block;width:22px;height:0;vertical-align:middle;margin-right:6px;
border-top:2px solid var(--orc-good)}
.orc .orc-key .orc-dashed{border-top:2px dashed currentColor}
.orc .orc-by table,.orc .orc-answer table{border-collapse:collapse;font-size:12px;margin:4px 0;
color:var(--orc-fg)}
.orc .orc-by th,.orc .orc-by td,.orc .orc-answer th,.orc .orc-answer td{padding:3px 10px;text-align:right;
border-bottom:1px solid var(--orc-line);font-variant-numeric:tabular-nums;max-width:240px;overflow:hidden;
text-overflow:ellipsis}
.orc .orc-by th,.orc .orc-by td{white-space:nowrap}
.orc .orc-by tbody th{font-weight:400}
.orc .orc-by th:first-child,.orc .orc-answer td,.orc .orc-answer th{text-align:left}
.orc .orc-rows{border:1px solid var(--orc-line);border-radius:8px;overflow:auto;background:var(--orc-bg)}
.orc .orc-head,.orc .orc-row{border-bottom:1px solid var(--orc-line);align-items:center;min-width:838px;
overflow:hidden}
.orc .orc-row:last-child{border-bottom:0}
.orc .orc-head,.orc .orc-row:hover{background:var(--orc-alt)}
.orc .orc-row.orc-on{background:color-mix(in srgb,var(--orc-acc) 14%,transparent)}
.orc .orc-grid{display:grid;grid-template-columns:var(--orc-cols);gap:8px;font-size:12px;line-height:26px}
.orc .orc-grid>*{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.orc .orc-grid b{font-weight:600}
.orc .orc-n{text-align:right;font-variant-numeric:tabular-nums}
.orc .orc-rows .widget-checkbox{margin:0 2px 0 8px}
.orc .orc-rows .widget-checkbox label{font-size:12px;line-height:26px}
.orc .orc-rows .widget-checkbox input{margin:0 6px 0 0;align-self:center}
.orc .orc-row .jupyter-button{background:none;box-shadow:none;padding:0;height:26px;line-height:26px;
font:11.5px var(--orc-code);color:var(--orc-fg);text-decoration:underline;text-underline-offset:2px;
text-align:left}
.orc .orc-empty{padding:18px;text-align:center}
.orc .orc-status{font-size:12px;padding:0 6px}
.orc .orc-alert{border-left:3px solid var(--orc-bad);padding:4px 10px;margin:6px 0;white-space:pre-wrap}
.orc .orc-ask{border-left:3px solid var(--orc-bad);padding:4px 10px}
.orc .orc-ask ul{margin:2px 0 0 18px;padding:0}
.orc .orc-detail{border:1px solid var(--orc-line);border-radius:8px;padding:8px 14px;margin-top:6px;
background:var(--orc-bg)}
.orc .orc-detail h3,.orc .orc-detail h4{margin:12px 0 4px;font-size:13px;font-weight:600;color:var(--orc-fg)}
.orc .orc-detail h3{margin-top:4px;font-family:var(--orc-code);overflow-wrap:anywhere}
.orc .orc-facts{display:grid;grid-template-columns:max-content 1fr;gap:1px 14px;font-size:12px}
.orc .orc-facts dd{overflow-wrap:anywhere}
.orc .orc-facts dt{opacity:.85}
.orc .orc-pre,.orc .orc-answer pre{white-space:pre-wrap;overflow-wrap:anywhere;max-height:320px;overflow:auto;
margin:2px 0;padding:6px 10px;background:var(--orc-alt);color:var(--orc-fg);border-radius:4px;
font:12px/1.45 var(--orc-code)}
.orc .orc-answer{max-height:420px;overflow:auto;padding:0 10px;border-left:3px solid var(--orc-line);
font-size:13px}
.orc .orc-answer code{background:var(--orc-alt);color:var(--orc-fg);font-family:var(--orc-code)}
.orc .orc-answer a{color:var(--jp-content-link-color,inherit);text-decoration:underline}
.orc summary{cursor:pointer;margin:10px 0 4px}
.jp-OutputArea-child:has(.orc)+.jp-OutputArea-child:has(.orc-still){display:none}
</style>"""
