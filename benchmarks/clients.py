"""Other programs on the completion cache: each client asks twice, and the second run sends nothing.

::

    pip install langchain-openai llama-index-llms-openai-like instructor 'pydantic-ai-slim[openai]'
    pip install dspy llm inspect-ai tornado
    npm install openai
    python benchmarks/clients.py [NAME ...] [--node-modules node_modules]

Each run is a process of its own, on one folder for both, against the simulator. Those that take a client
of the library ``openai`` get `CompletionCache.client`; the others ask through ``or-cache serve``. What isn't
installed is left out, and said. A second run that sends something, or gets another answer, fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from or_cache_magic.cache.cache import CompletionCache
from or_cache_magic.simulator import Simulator

MODEL = "openai/gpt-4o-mini"
PROMPT = "The book Solaris by Stanislaw Lem appeared in 1961."
TOKEN = "orc-benchmark"
QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "ANONYMIZED_TELEMETRY": "False", "DSPY_CACHEDIR": ""}
"""Environment in which no client calls home."""

NOT_INSTALLED = 3


# -- those that take a client ---------------------------------------------------------------------


def openai(cache):
    """Whole, streamed, parsed and with a tool, by the library itself."""
    with cache.client() as client:
        ask = {
            "model": MODEL,
            "temperature": 0,
            "messages": [{"role": "user", "content": PROMPT}],
        }
        parts = [client.chat.completions.create(**ask).choices[0].message.content]
        stream = client.chat.completions.create(**ask, seed=1, stream=True)
        parts.append("".join(one.delta.content or "" for chunk in stream for one in chunk.choices))
        parameters = {"type": "object", "properties": {"title": {"type": "string"}}}
        tool = {"type": "function", "function": {"name": "note", "parameters": parameters}}
        called = client.chat.completions.create(**ask, tools=[tool], tool_choice="required")
        parts.append(called.choices[0].message.tool_calls[0].function.arguments)
    return "\n".join(parts)


def langchain(cache):
    """`ChatOpenAI`, whole, streamed and structured."""
    from langchain_openai import ChatOpenAI

    with cache.client() as client:
        chat = ChatOpenAI(
            model=MODEL,
            temperature=0,
            client=client.chat.completions,
            root_client=client,
            api_key="none",
            stream_usage=True,
        )
        whole = chat.invoke(PROMPT).text
        streamed = "".join(chunk.text for chunk in chat.stream(f"{PROMPT} Yes?"))
        data = chat.with_structured_output(_book(), method="json_schema").invoke(PROMPT)
    return f"{whole}\n{streamed}\n{data}"


def instructor(cache):
    """An object of a pydantic class, by a tool and by a JSON schema."""
    import instructor as library

    found = []
    with cache.client() as client:
        for mode in (library.Mode.TOOLS, library.Mode.JSON_SCHEMA):
            ask = library.from_openai(client, mode=mode).chat.completions.create
            message = {"role": "user", "content": PROMPT}
            found.append(ask(model=MODEL, temperature=0, messages=[message], response_model=_book()))
    return "\n".join(map(str, found))


def pydantic_ai(cache):
    """An agent with an output of a class, asynchronously."""
    from pydantic_ai import Agent
    from pydantic_ai.models.openrouter import OpenRouterModel
    from pydantic_ai.providers.openrouter import OpenRouterProvider

    async def run():
        async with cache.async_client() as client:
            model = OpenRouterModel(MODEL, provider=OpenRouterProvider(openai_client=client))
            settings = {"temperature": 0}
            text = await Agent(model, model_settings=settings).run(PROMPT)
            data = await Agent(model, output_type=_book(), model_settings=settings).run(PROMPT)
            return f"{text.output}\n{data.output}"

    return asyncio.run(run())


def _book():
    from pydantic import BaseModel

    class Book(BaseModel):
        """A book."""

        title: str
        author: str
        year: int

    return Book


# -- those that take an address -------------------------------------------------------------------


@contextlib.contextmanager
def _served(cache):
    from or_cache_magic.clients.server import CacheServer

    with CacheServer(cache, TOKEN) as server:
        yield server.base_url


def llama_index(cache):
    """`OpenAILike` of LlamaIndex, whole and streamed."""
    from llama_index.llms.openai_like import OpenAILike

    with _served(cache) as base_url:
        model = OpenAILike(
            model=MODEL, api_base=base_url, api_key=TOKEN, temperature=0, is_chat_model=True, max_retries=0
        )
        whole = model.complete(PROMPT).text
        streamed = "".join(part.delta or "" for part in model.stream_complete(f"{PROMPT} Yes?"))
    return f"{whole}\n{streamed}"


def dspy(cache):
    """A language model of DSPy, by LiteLLM; its own cache is off."""
    import dspy as library

    with _served(cache) as base_url:
        model = library.LM(
            f"openai/{MODEL}", api_base=base_url, api_key=TOKEN, temperature=0, max_tokens=500, cache=False
        )
        return str(model(PROMPT)[0])


def llm(cache):
    """Simon Willison's `llm`, as its command asks: streamed."""
    from llm.default_plugins.openai_models import Chat

    with _served(cache) as base_url:
        model = Chat(MODEL, model_name=MODEL, api_base=base_url)
        return model.prompt(PROMPT, key=TOKEN, temperature=0).text()


def inspect_ai(cache):
    """A model of Inspect, asynchronously."""
    from inspect_ai.model import GenerateConfig, get_model

    async def run(base_url):
        config = GenerateConfig(temperature=0)
        name = f"openai-api/orcache/{MODEL}"
        async with get_model(name, base_url=base_url, api_key=TOKEN, config=config) as model:
            return (await model.generate(PROMPT)).completion

    with _served(cache) as base_url:
        return asyncio.run(run(base_url))


def node(cache):
    """The library ``openai`` of Node, whole and streamed."""
    script = """
    const OpenAI = require("openai");
    const ask = {model: MODEL, temperature: 0, messages: [{role: "user", content: PROMPT}]};
    (async () => {
      const client = new OpenAI();
      const whole = await client.chat.completions.create(ask);
      let text = whole.choices[0].message.content + "\\n";
      for await (const chunk of await client.chat.completions.create({...ask, seed: 1, stream: true}))
        text += chunk.choices[0]?.delta?.content ?? "";
      console.log(text);
    })();
    """.replace("MODEL", json.dumps(MODEL)).replace("PROMPT", json.dumps(PROMPT))
    try:
        subprocess.run(["node", "-e", 'require("openai")'], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise ImportError("npm install openai, and name its --node-modules") from exc
    with _served(cache) as base_url:
        environment = os.environ | {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": TOKEN}
        done = subprocess.run(["node", "-e", script], env=environment, check=True, capture_output=True)
    return done.stdout.decode()


CLIENTS = {
    each.__name__: each
    for each in (openai, langchain, instructor, pydantic_ai, llama_index, dspy, llm, inspect_ai, node)
}


# -- running them ---------------------------------------------------------------------------------


def run_one(name, folder):
    """Ask in this process, and print the answer and how long it took."""
    began = time.perf_counter()
    with CompletionCache(folder) as cache:
        try:
            answer = CLIENTS[name](cache)
        except ImportError as exc:
            print(exc, file=sys.stderr)
            sys.exit(NOT_INSTALLED)
        (sums,) = cache.totals(session=True)
    told = {"answer": answer, "seconds": time.perf_counter() - began, "asks": sums.asks, "hits": sums.hits}
    print(json.dumps(told))


def run_twice(name, node_modules):
    """Return what both runs told and the requests that each sent; None where the client isn't installed."""
    found = []
    with Simulator() as sim, tempfile.TemporaryDirectory() as folder:
        ours = {"OPENROUTER_BASE_URL": sim.base_url, "OPENROUTER_API_KEY": sim.api_key}
        environment = os.environ | QUIET | ours | {"NODE_PATH": node_modules, "DSPY_CACHEDIR": folder}
        for _ in range(2):
            before = sim.completion_count
            done = subprocess.run(
                [sys.executable, __file__, "--run", name, str(Path(folder, "cache"))],
                env=environment,
                capture_output=True,
                check=False,
                text=True,
                cwd=folder,
            )
            if done.returncode == NOT_INSTALLED:
                return None
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
            found.append(json.loads(done.stdout.splitlines()[-1]) | {"sent": sim.completion_count - before})
    return found


def main():
    parser = argparse.ArgumentParser(description="Ask twice by each client; the second time sends nothing.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CLIENTS)}")
    parser.add_argument("--node-modules", default="", metavar="DIR", help="has Node's openai")
    parser.add_argument("--run", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run_one(*options.run)
        return
    failed = []
    print(f"{'client':14}{'asks':>6}{'sent':>6}{'again':>7}{'hits':>6}{'seconds':>10}{'again':>8}")
    for name in options.names or CLIENTS:
        found = run_twice(name, os.path.abspath(options.node_modules) if options.node_modules else "")
        if found is None:
            print(f"{name:14}  not installed")
            continue
        first, second = found
        same = first["answer"] == second["answer"] and first["answer"].strip()
        fine = second["sent"] == 0 and first["sent"] > 0 and same
        row = f"{name:14}{first['asks']:>6}{first['sent']:>6}{second['sent']:>7}{second['hits']:>6}"
        print(
            f"{row}{first['seconds']:>10.2f}{second['seconds']:>8.2f}{'' if fine else '   WRONG'}", flush=True
        )
        failed += [] if fine else [name]
    sys.exit(f"not served by the cache: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
