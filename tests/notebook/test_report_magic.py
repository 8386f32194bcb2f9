"""`%openrouter_report` in cells."""

from __future__ import annotations

CELL = "%%openrouter openai/gpt-4o-mini\n"


def test_report__in_a_cell(nb, tmp_path):
    """It shows itself, is bound, is written by `save`, and sends nothing."""
    assert "nothing was asked yet" in nb.fails("%openrouter_report")
    nb.run(f"{CELL}What is a median?")
    sent = len(nb.sent)
    nb.run("report = %openrouter_report")
    report = nb["report"]
    assert report.markdown.startswith("# Use of language models\n")
    assert "What is a median?" in report.markdown
    assert "# Use of language models" in nb.run("%openrouter_report")
    nb.run("latex = %openrouter_report --format latex")
    assert str(nb["latex"]).startswith("% Read it by \\input")
    assert nb["latex"]._repr_markdown_().startswith("```latex\n")
    nb.run("import or_cache_magic as orc\nsame = orc.report()")
    assert nb["same"] == report
    assert "the ledger has no notebook nowhere.ipynb" in nb.fails("%openrouter_report nowhere.ipynb")
    assert "--format" in nb.fails("%openrouter_report --format html")
    assert len(nb.sent) == sent
