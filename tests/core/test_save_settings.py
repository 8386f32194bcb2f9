"""Settings written into a project's file."""

from __future__ import annotations

import pytest

from or_cache_magic.core.settings import Project, load_settings, save_settings
from or_cache_magic.errors import SettingError

FILE = """\
# our project
[project]
name = "thesis"   # the name

[tool.or_cache_magic]  # asked below
model = "openai/gpt-4o"  # the big one

[tool.ruff]
line-length = 100
"""


def test_save__keeps_the_rest_to_the_letter(tmp_path):
    """Comments, order and spacing stay; only the setting's value changes."""
    path = tmp_path / "pyproject.toml"
    path.write_text(FILE)
    assert save_settings(tmp_path, {"model": "openai/gpt-4o-mini"}) == path

    assert path.read_text() == FILE.replace('"openai/gpt-4o"', '"openai/gpt-4o-mini"')


def test_save__adds_what_is_not_there(tmp_path):
    """A setting is added in its section, a section in its file, a file in the folder."""
    save_settings(tmp_path, {"stream": "false"})
    path = tmp_path / "pyproject.toml"
    assert path.read_text() == "[tool.or_cache_magic]\nstream = false\n"

    path.write_text("[tool.ruff]\nline-length = 100\n")
    save_settings(tmp_path, {"stream": "false"})
    assert path.read_text() == "[tool.ruff]\nline-length = 100\n\n[tool.or_cache_magic]\nstream = false\n"


def test_save__goes_into_the_nearest_file_above(tmp_path):
    """A notebook in a subfolder saves in its project's file."""
    path = tmp_path / "pyproject.toml"
    path.write_text(FILE)
    (tmp_path / "notebooks").mkdir()

    assert save_settings(tmp_path / "notebooks", {"max_tokens": "9"}) == path
    assert "max_tokens = 9\n" in path.read_text()


@pytest.mark.parametrize(
    ("name", "text", "written"),
    [
        ("temperature", "0.5", "0.5"),
        ("temperature", "0", "0"),
        ("temperature", "none", '"none"'),
        ("max_tokens", "100", "100"),
        ("stream", "true", "true"),
        ("stream", "off", '"off"'),
        ("ttl", "24h", '"24h"'),
        ("ttl", "never", '"never"'),
        ("model", "openai/gpt-4o", '"openai/gpt-4o"'),
        ("model", "2024", '"2024"'),
        ("model", "true", '"true"'),
        ("system", 'say "hi" \\ $5\nbye', '"say \\"hi\\" \\\\ $5\\nbye"'),
        ("system", "'quoted'", "\"'quoted'\""),
        ("aliases", "fast:openai/gpt-4o,big:x/y", '"fast:openai/gpt-4o,big:x/y"'),
    ],
)
def test_save__reads_back_as_it_was_set(tmp_path, name: str, text: str, written: str):
    """What is written is TOML as people write it, and means what was set."""
    save_settings(tmp_path, {name: text})
    read = load_settings({}, Project(tmp_path), {})

    assert f"{name} = {written}\n" in (tmp_path / "pyproject.toml").read_text()
    assert getattr(read, name) == getattr(load_settings({}, Project(tmp_path / "none"), {name: text}), name)


def test_save__refuses_a_broken_file(tmp_path):
    """A file that is not TOML stays as it is."""
    path = tmp_path / "pyproject.toml"
    path.write_text("[tool.or_cache_magic\n")
    with pytest.raises(SettingError, match="can't be changed"):
        save_settings(tmp_path, {"model": "x"})

    assert path.read_text() == "[tool.or_cache_magic\n"


def test_save__refuses_where_the_file_cannot_be(tmp_path):
    """A folder that is not there is an error, not a traceback."""
    with pytest.raises(SettingError, match="can't be changed"):
        save_settings(tmp_path / "gone" / "deeper", {"model": "x"})


def test_save__never_the_base_url(tmp_path):
    """Nothing is written when one of the settings is refused."""
    with pytest.raises(SettingError, match="base_url is not saved"):
        save_settings(tmp_path, {"model": "x", "base_url": "https://example.com"})

    assert list(tmp_path.iterdir()) == []
