"""Prompts that end in a question mark, through IPython's own reading of a cell."""

from __future__ import annotations

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import no_var_expand

from or_cache_magic.notebook import extension


@pytest.fixture
def asked(shell: InteractiveShell):
    """The prompts that reach a stand-in ``%openrouter``, in a shell with the transformer installed."""
    prompts: list[str] = []

    @no_var_expand
    def openrouter(line: str, cell: str | None = None) -> str:
        prompts.append(line if cell is None else f"{line}|{cell}")
        return f"answer {len(prompts)}"

    shell.register_magic_function(openrouter, "line_cell", "openrouter")
    shell.register_magic_function(openrouter, "line", "openrouter_why")
    extension.install_help_marks(shell)
    return prompts


def run(shell: InteractiveShell, cell: str) -> None:
    result = shell.run_cell(cell)
    assert result.error_before_exec is None
    assert result.error_in_exec is None


@pytest.mark.parametrize(
    "prompt",
    [
        "What is the capital of France?",
        "Why??",
        "-m fast -- Is it (this or that?",
        "What's up?",
        'Who said "hi?',
        "Costs $x or {x}?",
        "a = b?",
        "Und größer?",
        "Is f(x) = [1, 2?",
        "really ?",
        "?",
        "no question",
        "%openrouter what?",
    ],
)
def test_question__reaches_the_magic(shell: InteractiveShell, asked: list[str], prompt: str):
    """The prompt arrives as written, asked bare or assigned; ``$x`` and ``{x}`` are not filled in."""
    shell.user_ns["x"] = "EXPANDED"
    run(shell, f"%openrouter {prompt}")
    run(shell, f"answer = %openrouter {prompt}")

    assert asked == [prompt, prompt]
    assert shell.user_ns["answer"] == "answer 2"


def test_question__without_the_transformer_it_is_lost(shell: InteractiveShell, asked: list[str], capsys):
    """What is cured here is real: IPython alone looks for help on the last word."""
    extension.remove_help_marks(shell)
    run(shell, "%openrouter What is the capital of France?")

    assert asked == []
    assert "France" in capsys.readouterr().out


def test_question__spaces_after_it(shell: InteractiveShell, asked: list[str]):
    """Blanks behind the question mark don't matter."""
    run(shell, "%openrouter What?  \t\nx = %openrouter Who?  \n")

    assert asked == ["What?", "Who?"]


def test_question__several_in_a_cell_with_other_syntax(shell: InteractiveShell, asked: list[str]):
    """Lines around it run as they would, other special syntax with stray quotes too."""
    cell = "x = 1\n%openrouter it's one?\ny = %openrouter (two?\n%time x = x + 1\n\nz = x + 1\n%openrouter three\n"
    run(shell, cell)

    assert asked == ["it's one?", "(two?", "three"]
    assert (shell.user_ns["y"], shell.user_ns["z"]) == ("answer 2", 3)


def test_question__indented(shell: InteractiveShell, asked: list[str]):
    """Inside if and for the indentation stays."""
    run(
        shell,
        "for i in range(2):\n    if i:\n        %openrouter odd?\n    else:\n        y = %openrouter even?\n",
    )

    assert asked == ["even?", "odd?"]


def test_question__after_a_block(shell: InteractiveShell, asked: list[str]):
    """A line that ends a block is found too, and so is one inside a block that ends another."""
    cell = """
if True:
    if True:
        pass
    %openrouter inner?
%openrouter outer?
for _ in range(1):
    pass
x = %openrouter assigned?
"""
    run(shell, cell)

    assert asked == ["inner?", "outer?", "assigned?"]


def test_question__continued_line(shell: InteractiveShell, asked: list[str]):
    """A backslash continues the prompt, as in every line magic."""
    run(shell, "%openrouter one \\\n  and two?\n")

    assert len(asked) == 1
    assert asked[0].split() == ["one", "and", "two?"]


def test_question__companions_too(shell: InteractiveShell, asked: list[str]):
    """The magics beside it take words that end in a question mark as well."""
    run(shell, "%openrouter_why not stored?")

    assert asked == ["not stored?"]


def test_question__strings_are_not_edited(shell: InteractiveShell, asked: list[str]):
    """A line inside a string, a bracket or a comment is not ours."""
    run(
        shell,
        's = """\n%openrouter What?\nx = %openrouter Who?\n"""\nn = (7\n%s) # %openrouter Why?\n'.replace(
            "%s", "%2"
        ),
    )

    assert asked == []
    assert shell.user_ns["s"] == "\n%openrouter What?\nx = %openrouter Who?\n"


def test_question__cell_bodies_are_not_edited(shell: InteractiveShell, asked: list[str]):
    """The body of a cell magic is the prompt, whatever its lines look like."""
    run(shell, "%%openrouter fast\n%openrouter What?\nx = %openrouter Who?\n")

    assert asked == ["fast|%openrouter What?\nx = %openrouter Who?\n"]


@pytest.mark.parametrize(
    "text", ["%openrouter?", "%openrouter??", "?%openrouter", "??%openrouter", "%%openrouter?"]
)
def test_question__help_is_still_help(shell: InteractiveShell, asked: list[str], text: str):
    """Asking IPython for help on the magic is not a prompt, and reads as it did before."""
    with_it = shell.transform_cell(text)
    extension.remove_help_marks(shell)

    assert with_it == shell.transform_cell(text)
    assert "pinfo" in with_it


@pytest.mark.parametrize(
    "text", ["%time?", "x?", "y = %openrouter", "%openrouter", "!ls?", "x = !ls?", "%openrouterx a?", "a.b?"]
)
def test_question__nothing_else_changes(shell: InteractiveShell, asked: list[str], text: str):
    """Other magics, other help and a bare magic read as they did before."""
    with_it = shell.transform_cell(text)
    extension.remove_help_marks(shell)

    assert with_it == shell.transform_cell(text)


def test_question__a_terminal_sees_a_whole_line(shell: InteractiveShell, asked: list[str]):
    """A terminal that asks whether the input is complete is told that it is."""
    assert shell.check_complete("%openrouter What?")[0] == "complete"


def test_install__twice_is_once_and_remove_undoes_it(shell: InteractiveShell):
    """The shell's list of transformers ends as it began."""
    before = list(shell.input_transformer_manager.token_transformers)
    extension.install_help_marks(shell)
    extension.install_help_marks(shell)
    assert len(shell.input_transformer_manager.token_transformers) == len(before) + 1

    extension.remove_help_marks(shell)
    extension.remove_help_marks(shell)
    assert shell.input_transformer_manager.token_transformers == before
