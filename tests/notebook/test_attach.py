"""``-a`` in cells: what a word names, what is sent and shown, and that it is one entry by every route."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os

import pandas as pd
import pytest
from PIL import Image

import or_cache_magic as orc
from or_cache_magic.notebook.extension import loaded
from or_cache_magic.notebook.status import entry_card
from or_cache_magic.panels.detail import detail_html

ASK = "%%openrouter openai/gpt-4o-mini"


@pytest.fixture
def picture() -> bytes:
    """A small PNG."""
    written = io.BytesIO()
    Image.new("RGB", (4, 3), (1, 2, 3)).save(written, "PNG")
    return written.getvalue()


def test_attach__is_one_entry_by_path_url_and_variable(nb, picture):
    """A picture under two names, as bytes, as PIL has it, in a list, in Python: bought once."""
    (nb.folder / "plot.png").write_bytes(picture)
    (nb.folder / "other name.dat").write_bytes(picture)
    nb["raw"], nb["image"] = picture, Image.open(io.BytesIO(picture))
    nb["path"], nb["several"] = "plot.png", [nb.folder / "plot.png"]
    nb["where"] = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    words = ("plot.png", "'other name.dat'", "raw", "image", "path", "several", "where", "./plot.png")
    for word in words:
        nb.run(f"{ASK} -a {word}\nWhat is this?")
    nb.run("x = %openrouter -m openai/gpt-4o-mini -a plot.png What is this?")
    assert nb["x"].cached
    assert orc.ask("What is this?", model="openai/gpt-4o-mini", attach=picture).cached
    assert orc.ask("What is this?", model="openai/gpt-4o-mini", attach="plot.png").cached

    (sent,) = nb.sent
    text, part = sent["messages"][-1]["content"]
    assert text == {"type": "text", "text": "What is this?"}
    assert base64.b64decode(part["image_url"]["url"].partition(",")[2]) == picture
    assert orc.entries()["prompt"].tolist() == ["What is this?"]


def test_attach__is_told_in_the_receipt(nb, picture):
    """How many, by which names, how large; bought and cached alike, and in the stable one too."""
    (nb.folder / "plot.png").write_bytes(picture)
    (nb.folder / "notes.txt").write_text("twelve chars")
    cell = f"{ASK} -a plot.png --attach notes.txt\nWhat is this?"
    told = f" · 2 attached: plot.png {len(picture)} B, notes.txt 12 B"
    assert told in nb.run(cell)
    assert told in nb.run(cell)
    nb.run("%openrouter_config receipt=stable")
    assert told in nb.run(cell)
    assert len(nb.sent) == 1


def test_attach__relative_paths_begin_in_the_notebooks_folder(nb, picture, monkeypatch, tmp_path):
    """Also after %cd, as with -s @file; in Python where the process is."""
    (nb.folder / "plot").write_bytes(picture)
    nb["path"] = "plot"
    monkeypatch.chdir(tmp_path)
    nb.run(f"{ASK} -a plot\nWhat is this?")
    nb.run(f"{ASK} -a path\nWhat is this?")
    assert len(nb.sent) == 1
    with pytest.raises(orc.errors.RequestError, match="no such file"):
        orc.ask("What is this?", attach="plot")


def test_attach__takes_tables_and_lists_of_them(nb):
    """A DataFrame reads as in a template."""
    nb["df"] = pd.DataFrame({"a": [1]})
    nb.run(f"{ASK} -a df\nSum it.")
    assert nb.asked[1]["text"] == "\n\n1 row x 1 column\n\n|a|\n|---|\n|1|"


@pytest.mark.parametrize(
    ("word", "said", "hint"),
    [
        ("figg", "figg is neither a variable nor a file; nothing was sent", "did you mean figs?"),
        ("zzzzz", "zzzzz is neither a variable nor a file; nothing was sent", "relative paths begin at"),
        ("plot1.png", "plot1.png can't be attached: there is no such file", "did you mean plot_1.png?"),
        ("none", "none can't be attached: it is None", "run the cell that makes it"),
        ("figs", "figs can't be attached: it is an empty list", "run the cell that makes it"),
        ("~nouser/x.png", "x.png can't be attached: there is no such file", "either"),
        ("number", "number can't be attached: a int is nothing that can be", "attach a path, a URL"),
        ("text", "text can't be attached: a text is a path or a URL", "put it into the prompt"),
        ("/", "can't be attached: it is a folder", "one by one"),
    ],
)
def test_attach__says_what_is_wrong_in_two_lines(nb, picture, word, said, hint):
    """Nothing is sent, and the hint helps."""
    (nb.folder / "plot_1.png").write_bytes(picture)
    nb["none"], nb["figs"], nb["number"], nb["text"] = None, [], 3, "two\nlines"
    written = nb.fails(f"{ASK} -a {word}\nWhat is this?")
    assert said in written
    assert hint in written
    assert nb.sent == []


def test_warm__attaches_to_each_prompt_what_the_line_names(nb, picture):
    """Read once. What a list says itself is never read: it may come from somebody else."""
    (nb.folder / "plot.png").write_bytes(picture)
    nb["questions"] = ["What is this?", "Which colour?"]
    nb.run("%openrouter_warm questions -a plot.png -q")
    assert [len(body["messages"][-1]["content"]) for body in nb.sent] == [2, 2]
    assert nb.run(f"{ASK} -a plot.png\nWhich colour?")
    (nb.folder / "list.jsonl").write_text(json.dumps({"prompt": "Hi", "attach": "plot.png"}))
    frame = orc.warm("list.jsonl", progress=False)
    assert frame["error"].tolist() == ["line 1 attaches something (nothing was sent)"]
    (nb.folder / "list.jsonl").write_text(json.dumps({"prompt": "Hi", "schema": "@plot.png"}))
    frame = orc.warm("list.jsonl", progress=False)
    assert frame["error"].tolist() == ["line 1 names a file for its schema (nothing was sent)"]
    assert len(nb.sent) == 2


def test_entries__show_what_was_attached(nb, picture):
    """One entry whole tells each attachment, and not its base64; the panel shows a small picture too."""
    (nb.folder / "plot.png").write_bytes(picture)
    (nb.folder / "paper.bin").write_bytes(b"%PDF-1.4" + os.urandom(9000) + b"%%EOF")
    nb.run(f"{ASK} -a plot.png -a paper.bin -a https://example.com/cat.png\nWhat is this?")
    key = orc.entries()["key"][0]
    told = nb.run(f"%openrouter_entries {key}")
    digest = hashlib.sha256(picture).hexdigest()[:12]
    assert f"attached plot.png · PNG · {len(picture)} B · sha256 {digest}…" in told
    assert "attached paper.bin · PDF · 9 KB · sha256 " in told
    assert "attached https://example.com/cat.png · link" in told
    assert "more characters)" in told
    assert len(told) < 4000

    cache = loaded().session().cache()
    markdown = entry_card(cache, key)[1]
    assert markdown.count("<img ") == 1
    html = detail_html(cache, key)
    assert html.count("<img ") == 1
    assert "What is this?</pre>" in html
    assert "plot.png · PNG" in html
    assert len(html) < 20_000


def test_entries__keep_what_was_attached_when_the_file_is_opened_again(nb, picture):
    """With the entry, on disk."""
    nb["fig"] = picture
    nb.run(f"{ASK} -a fig\nWhat is this?")
    directory = loaded().session().cache().directory
    with orc.open_cache(directory) as again:
        (one,) = again.store.entry(orc.entries()["key"][0]).attached
    assert (one.name, one.kind, one.size_bytes) == ("fig", "PNG", len(picture))


def test_attach__goes_to_each_of_several_models(nb, picture):
    """Read once, the same for all; a rerun buys nothing."""
    (nb.folder / "plot.png").write_bytes(picture)
    cell = "%%openrouter openai/gpt-4o-mini openai/gpt-4o -a plot.png\nWhat is this?"
    nb.run(cell)
    nb.run(cell)
    assert sorted(body["model"] for body in nb.sent) == ["openai/gpt-4o", "openai/gpt-4o-mini"]
    assert len({json.dumps(body["messages"]) for body in nb.sent}) == 1
    assert len(nb.sent) == 2


def test_dry_run__says_what_would_be_refused(nb, picture):
    """What a model can't take, and a schema that it can't be held to: no estimate of what is never sent."""
    (nb.folder / "plot.png").write_bytes(picture)
    cell = "%%openrouter {} -a plot.png --dry-run\nWhat is this?"
    written = nb.fails(cell.format("meta-llama/llama-3.3-70b-instruct"))
    assert "takes no pictures (nothing was sent)" in written
    written = nb.fails("%%openrouter perplexity/sonar --schema 'a int' --dry-run\nHow many?")
    assert "can't be held to a schema" in written
    told = nb.run(cell.format("meta-llama/llama-3.3-70b-instruct,openai/gpt-4o-mini"))
    assert "would refuse meta-llama/llama-3.3-70b-instruct · key" in told
    assert "would ask openai/gpt-4o-mini · key" in told
    assert told.count(f" · 1 attached: plot.png {len(picture)} B · ") == 2
    assert nb.sent == []
    nb.run("%%openrouter -a plot.png\nWhat is this?")
    assert " · 1 attached: plot.png" in nb.run("%%openrouter -a plot.png --dry-run\nWhat is this?")
