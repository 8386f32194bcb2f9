"""How the panel looks: one sheet, its colours the theme's, so that it is right in light and dark."""

from __future__ import annotations

from typing import Final

__all__ = ["STYLE"]

# Where a front end names no colours (Colab), what it writes with and shades of grey fit light and dark alike.
STYLE: Final = """<style>
.orc{--orc-fg:var(--jp-ui-font-color1,inherit);--orc-mut:var(--jp-ui-font-color1,inherit);
--orc-line:var(--jp-border-color2,rgba(128,128,128,.4));--orc-bg:var(--jp-layout-color1,transparent);
--orc-alt:var(--jp-layout-color2,rgba(128,128,128,.12));--orc-good:var(--jp-success-color1,#388e3c);
--orc-acc:var(--jp-brand-color1,#1976d2);--orc-bad:var(--jp-error-color1,#d32f2f);
--orc-cols:124px minmax(110px,1.2fr) minmax(130px,3fr) 104px 96px 48px 72px 78px;
color:var(--orc-fg);overflow:hidden;padding:2px}
.orc .widget-html-content{line-height:1.4;color:var(--orc-fg)}
.orc .widget-html{height:auto}
.orc-sr{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
.orc-tiles{display:flex;gap:8px;flex-wrap:wrap;margin:4px 0;padding:0}
.orc-tile{border:1px solid var(--orc-line);border-radius:8px;padding:8px 14px;min-width:128px;flex:1 1 auto;
background:var(--orc-bg);display:flex;flex-direction:column}
.orc-tile dt{font-size:11px;font-weight:400;letter-spacing:.06em;text-transform:uppercase;opacity:.8;margin:0}
.orc-tile dd{margin:0;font-size:11.5px;opacity:.85;white-space:nowrap;font-variant-numeric:tabular-nums}
.orc-tile dd.orc-value{font-size:24px;font-weight:600;line-height:1.3;opacity:1}
.orc-tile.orc-saved-tile dd.orc-value{color:var(--orc-good)}
.orc-chart{display:block;width:100%;max-width:860px;max-height:190px}
.orc-chart text{fill:currentColor;font-size:10px;opacity:.8}
.orc-chart .orc-axis{stroke:var(--orc-line);stroke-width:.6;fill:none}
.orc-chart .orc-area{fill:var(--orc-good);opacity:.18;stroke:none}
.orc-chart .orc-saved{fill:none;stroke:var(--orc-good);stroke-width:1.8;stroke-linejoin:round}
.orc-chart .orc-rate{fill:none;stroke:currentColor;stroke-width:1.2;stroke-dasharray:4 3;opacity:.75}
.orc-key{font-size:11px;display:flex;gap:18px;margin:2px 0 0 58px}
.orc-key i{display:inline-block;width:22px;height:0;vertical-align:middle;margin-right:6px;
border-top:2px solid var(--orc-good)}
.orc-key .orc-dashed{border-top:2px dashed currentColor}
.orc-by table,.orc-answer table{border-collapse:collapse;font-size:12px;margin:0;color:var(--orc-fg)}
.orc-by th,.orc-by td,.orc-answer th,.orc-answer td{padding:2px 10px;border-bottom:1px solid var(--orc-line);
text-align:right;font-variant-numeric:tabular-nums;max-width:260px;overflow:hidden;text-overflow:ellipsis}
.orc-by td,.orc-by th{white-space:nowrap}
.orc-by th:first-child,.orc-by td:first-child,.orc-answer td,.orc-answer th{text-align:left}
.orc-rows{border:1px solid var(--orc-line);border-radius:8px;overflow:auto;background:var(--orc-bg)}
.orc-head,.orc-row{border-bottom:1px solid var(--orc-line);align-items:center;
min-width:1000px;overflow:hidden}
.orc-row:last-child{border-bottom:0}
.orc-head{background:var(--orc-alt)}
.orc-row:hover{background:var(--orc-alt)}
.orc-row.orc-on{background:color-mix(in srgb,var(--orc-acc) 14%,transparent)}
.orc-grid{display:grid;grid-template-columns:var(--orc-cols);gap:10px;font-size:12px;line-height:26px}
.orc-grid>*{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.orc-grid b{font-weight:600}
.orc-n{text-align:right;font-variant-numeric:tabular-nums}
.orc-row .widget-checkbox,.orc-head .widget-checkbox{margin:0 2px 0 8px}
.orc-row .widget-checkbox label,.orc-head .widget-checkbox label{font-size:12px;line-height:26px}
.orc-row .jupyter-button,.orc-row .widget-button{background:none;box-shadow:none;padding:0;
height:26px;line-height:26px;font:11.5px var(--jp-code-font-family,monospace);color:var(--orc-fg);
text-decoration:underline;text-underline-offset:2px;text-align:left}
.orc-empty{padding:18px;text-align:center}
.orc-status{font-size:12px;padding:0 6px}
.orc-alert{border-left:3px solid var(--orc-bad);padding:4px 10px;margin:4px 0;white-space:pre-wrap}
.orc-ask{border-left:3px solid var(--orc-bad);padding:4px 10px}
.orc-ask ul{margin:2px 0 0 18px;padding:0}
.orc-detail{border:1px solid var(--orc-line);border-radius:8px;padding:8px 14px;background:var(--orc-bg)}
.orc-detail h3,.orc-detail h4{margin:10px 0 4px;font-size:13px;font-weight:600;color:var(--orc-fg)}
.orc-detail h3:first-child{margin-top:0;font-size:14px}
.orc-facts{display:grid;grid-template-columns:max-content 1fr;gap:1px 14px;margin:0;font-size:12px}
.orc-facts dt,.orc-facts dd{margin:0;padding:0;overflow-wrap:anywhere;text-align:left;font-weight:400}
.orc-facts dt{opacity:.8}
.orc-pre{white-space:pre-wrap;overflow-wrap:anywhere;max-height:320px;overflow:auto;margin:2px 0;
padding:6px 10px;background:var(--orc-alt);color:var(--orc-fg);border-radius:4px;
font:12px/1.45 var(--jp-code-font-family,monospace)}
.orc-answer{max-height:420px;overflow:auto;padding:0 10px;
border-left:3px solid var(--orc-line);font-size:13px}
.orc-answer pre{white-space:pre-wrap;background:var(--orc-alt);padding:6px 10px}
.orc-answer a{color:var(--jp-content-link-color,inherit);text-decoration:underline}
</style>"""
