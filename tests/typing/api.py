"""The public API as a type checker sees it: never run, checked by mypy with the package.

A line that must not pass has ``# type: ignore[code]``: when it does pass, mypy says that nothing was ignored.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import or_cache_magic as orc
from or_cache_magic import Completion, CompletionCache, errors

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from IPython.core.interactiveshell import InteractiveShell
    from numpy.typing import NDArray
    from openai import AsyncOpenAI, OpenAI
    from typing_extensions import assert_type


def asking() -> None:
    """Any field of the request may be named; what isn't one has its own type."""
    assert_type(orc.ask("What is a median?"), Completion)
    answer = orc.ask(
        [{"role": "user", "content": "What is a median?"}],
        model="openai/gpt-4o-mini",
        system="Be brief.",
        mode="refresh",
        sample=1,
        ttl="7d",
        tag=["first", "draft"],
        stream=False,
        prompt_cache="5m",
        max_cost_usd=Decimal("0.05"),
        temperature=0,
        provider={"order": ["openai"]},
    )
    assert_type(answer, Completion)
    assert_type(answer.reply("And a mode?", temperature=0), Completion)
    assert_type(orc.ask("And a mode?", reply_to=answer), Completion)
    orc.ask("…", reply_to="an answer")  # type: ignore[arg-type]
    assert_type(orc.ask("…", schema="name str, year int?", repair=1).data, Any)
    orc.ask("…", schema=list[int])
    orc.ask("…", repair="1")  # type: ignore[arg-type]
    orc.ask("…", ttl=3600.0, tag="one", max_cost_usd="0.05")
    orc.ask(1)  # type: ignore[arg-type]
    orc.ask("…", system=1)  # type: ignore[arg-type]
    orc.ask("…", "openai/gpt-4o-mini")  # type: ignore[call-arg]


async def asking_on_a_loop() -> None:
    """`aask` takes what `ask` does, and is awaited."""
    answer = await orc.aask("What is a mode?", model="openai/gpt-4o-mini", max_cost_usd=0.05, seed=1)
    assert_type(answer, Completion)


def clients(cache: CompletionCache) -> None:
    """The clients are the library's own."""
    assert_type(orc.client(timeout=5), OpenAI)
    assert_type(orc.async_client(cache=cache), AsyncOpenAI)
    assert_type(cache.client(), OpenAI)
    assert_type(orc.embed(["a", "b"], model="openai/text-embedding-3-small"), NDArray[np.float32])
    orc.embed("a")  # type: ignore[call-arg]
    orc.client(cache="folder")  # type: ignore[arg-type]


async def mapping(frame: pd.DataFrame) -> None:
    """`map` takes data of any kind, a template or a function, and what `ask` takes."""
    orc.map(frame, "Spam? {{ body }}", out="label", schema="spam bool", workers=16, max_cost_usd="1", seed=1)
    orc.map(["a"], lambda row: f"Say {row}", limit=5, on_error="raise", batch=False, progress=False)
    orc.map(frame, 1)  # type: ignore[arg-type]
    orc.map(frame, "Spam? {{ body }}", batch="only")
    assert_type(orc.batches("batch_"), pd.DataFrame)
    assert_type(orc.verify(sample="5%", model="openai/*", max_cost_usd="0.1").frame(), pd.DataFrame)
    assert_type(orc.plan("analysis.ipynb", buy=True, max_cost_usd="0.5").pays, bool)
    assert_type(str(orc.why(orc.ask("What is a median?"))), str)
    assert_type(orc.report("paper.ipynb", format="latex").save("methods.tex"), Path)
    await orc.amap(frame, "Spam? {{ body }}", model="openai/gpt-4o-mini")
    CompletionCache(".or_cache").map(frame, "Spam? {{ body }}", workers="auto")


def completion(answer: Completion) -> None:
    """A completion is a text, and what isn't known is None."""
    text: str = answer
    assert_type(answer.upper(), str)
    assert_type(answer.model, str | None)
    assert_type(answer.provider, str | None)
    assert_type(answer.cost_usd, Decimal | None)
    assert_type(answer.paid_usd, Decimal | None)
    assert_type(answer.saved_usd, Decimal | None)
    assert_type(answer.cached, bool)
    assert_type(answer.finish_reason, str | None)
    assert_type(answer.reasoning, str | None)
    assert_type(answer.tool_calls, list[Any])
    assert_type(answer.reasoning_details, list[Any])
    assert_type(answer.annotations, list[Any])
    assert_type(answer.refusal, str | None)
    assert_type(answer.image_urls, list[str])
    assert_type(answer.save("media"), list[Path])
    for url, title, span in answer.citations:
        assert_type(url, str)
        assert_type(title, str)
        assert_type(span, tuple[int, int] | None)
    for image in answer.images:
        assert_type(image[:8], bytes)
        assert_type(image.mime, str)
    if answer.audio is not None:
        assert_type(answer.audio.format, str)
        assert_type(answer.audio.transcript, str | None)
    assert_type(answer.data, Any)
    assert_type(answer.messages, list[dict[str, Any]])
    assert_type(answer.key, str)
    assert_type(answer.created, datetime)
    _ = answer.usage.prompt_tokens  # type: ignore[union-attr]
    if answer.usage is not None:
        assert_type(answer.usage.prompt_tokens, int | None)
        assert_type(answer.usage.completion_tokens, int | None)
    answer.cost_usd = None  # type: ignore[misc]
    orc.ask(answer.messages, model=answer.model)
    orc.ask(text)


def tables() -> None:
    """Whatever answers with data answers with a DataFrame."""
    assert_type(orc.stats(), pd.DataFrame)
    assert_type(orc.stats("model", session=True), pd.DataFrame)
    assert_type(orc.entries("median", model="openai/*", since="7d", limit=10), pd.DataFrame)
    assert_type(orc.purge("0123abcd", dry_run=True), pd.DataFrame)
    assert_type(orc.purge(tag="draft", older="30d"), pd.DataFrame)
    assert_type(orc.export("course.orcache.jsonl", "0123abcd", tag="exam", media="files").entries, int)
    assert_type(orc.load(Path("course.orcache.jsonl")).why, tuple[str, ...])
    orc.export(1)  # type: ignore[arg-type]
    assert_type(orc.warm(["What is a median?"], model="openai/gpt-4o-mini", workers=4), pd.DataFrame)
    orc.stats(session="yes")  # type: ignore[arg-type]


def panel() -> None:
    """What is on screen is a DataFrame, with widgets or without; without them nothing can be selected."""
    shown = orc.panel()
    assert_type(shown.frame(), pd.DataFrame)
    _ = shown.selected  # type: ignore[union-attr]


def folder() -> None:
    """A cache on a folder has the same, and its arguments are all known."""
    assert_type(orc.open_cache(":memory:"), CompletionCache)
    with orc.open_cache(Path("answers")) as cache:
        assert_type(cache, CompletionCache)
        assert_type(cache.ask("What is a median?"), Completion)
        assert_type(cache.stats(by="day"), pd.DataFrame)
        assert_type(cache.entries(limit=5), pd.DataFrame)
        assert_type(cache.purge(all=True), pd.DataFrame)
        cache.entries(models="openai/*")  # type: ignore[call-arg]
        cache.purge(dry_runs=True)  # type: ignore[call-arg]
    orc.open_cache()  # type: ignore[call-arg]


def failing() -> None:
    """Errors are one tree, and carry their facts."""
    try:
        orc.ask("What is a median?")
    except errors.BudgetError as exc:
        assert_type(exc.hint, str)
    except orc.errors.OrCacheError as exc:
        assert_type(exc.hint, str)


def extension(shell: InteractiveShell) -> None:
    """What IPython calls."""
    orc.load_ipython_extension(shell)
    orc.unload_ipython_extension(shell)
