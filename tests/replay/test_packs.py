"""Packs: the same answers are the same bytes, a wiped cache replays from one, and what is wrong is refused alone."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
import subprocess
import sys
import zlib

import pytest

from or_cache_magic.core.rows import EntryFilter
from or_cache_magic.errors import OptionError
from or_cache_magic.simulator import Scenario, scenario

MODEL = "openai/gpt-4o-mini"
EMBEDDING = "openai/text-embedding-3-small"


def _png() -> bytes:
    """A picture whose base64 is long enough to be kept apart."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + random.Random(row).randbytes(3 * 64) for row in range(64))
    head = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


PNG = _png()


def every_kind(cache):
    """Asks for an answer of each kind; what a notebook would show of them."""
    first = cache.ask("What is a median?", tag=["stats", "naïve"], ttl="7d")
    reply = first.reply("And a mode?")
    answers = [
        first,
        reply,
        reply.reply("And a mean?"),
        cache.ask("Name a book.", schema="title str, year int?"),
        cache.ask("Look.", attach=PNG),
        cache.ask("Read.", attach=[b"a,b\n1,2\n"]),
        *(cache.ask("Name a colour.", sample=sample, temperature=1) for sample in range(3)),
        cache.ask("Name a colour.", system="Only \N{SNOWMAN} \u2028 and \x00."),
    ]
    said = [(str(a), a.key, a.cost_usd, a.usage, a.messages, a.data, a.outcome.answer) for a in answers]
    return [*said, [list(vector) for vector in cache.embed(["one", "two"], model=EMBEDDING)]]


@pytest.fixture
def other(open_cache, sim, tmp_path):
    """Another cache, of another folder."""
    return open_cache(sim, directory=tmp_path / "other")


def test_export__replays_every_kind_of_answer_without_a_request(cache, other, sim, tmp_path):
    """Text, chain, schema, picture, text file, samples: exported, wiped, imported, they are the same bytes."""
    bought, pack = every_kind(cache), tmp_path / "p.orcache.jsonl"
    count = sim.completion_count
    exported = cache.export(pack)
    assert (exported.entries, exported.history, exported.damaged) == (12, 0, 0)
    assert str(exported) == "p.orcache.jsonl: 12 entries"
    cache.purge(all=True)
    assert str(cache.load(pack)) == "p.orcache.jsonl: 12 new entries, 0 there already"
    assert every_kind(cache) == bought
    other.load(pack)
    assert every_kind(other) == bought
    assert sim.completion_count == count
    assert cache.store.replies.parent(bought[1][1]) == bought[0][1]
    assert other.store.entry(bought[4][1]) == cache.store.entry(bought[4][1])


def test_export__keeps_what_is_not_served_as_history(cache, other, sim, clock, tmp_path):
    """Refused answers, replaced ones, and those whose repairs are used up, which a rerun gives again for nothing."""
    pack = tmp_path / "p.jsonl"
    sim.script(Scenario(text="red"), times=1)
    red = cache.ask("Name a colour.")
    clock.now_s += 1
    sim.script(Scenario(text="blue"), times=1)
    cache.ask("Name a colour.", mode="refresh")
    sim.script(scenario("unfit", stubborn=True), times=2)
    unfit = cache.ask("Name a book.", schema="title str, year int", repair=1)
    assert unfit.outcome.not_stored
    count = sim.completion_count
    exported = cache.export(pack)
    assert (exported.entries, exported.history) == (1, 3)
    found = other.load(pack)
    assert (found.new, found.history, found.refused) == (1, 3, 0)
    assert other.ask("Name a colour.") == "blue"
    assert [(h.answer, h.reason, h.at_s) for h in other.store.unserved(red.key)] == [
        (h.answer, h.reason, h.at_s) for h in cache.store.unserved(red.key)
    ]
    again = other.ask("Name a book.", schema="title str, year int", repair=1)
    assert (again, again.outcome.kind) == (unfit, "kept")
    assert sim.completion_count == count
    assert other.load(pack).there == 4
    other.export(tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == pack.read_bytes()


@pytest.mark.parametrize("media", ["inline", "files"])
def test_export__is_the_same_bytes_whatever_the_order(cache, open_cache, sim, tmp_path, media):
    """Ten caches that were given the same answers in other orders are one sha256."""
    every_kind(cache)
    cache.export(tmp_path / "p.jsonl", media=media)
    lines = (tmp_path / "p.jsonl").read_bytes().splitlines(keepends=True)
    assert lines == sorted(lines)
    digests = set()
    for seed in range(10):
        random.Random(seed).shuffle(lines)
        (tmp_path / "p.jsonl").write_bytes(b"".join(lines))
        shuffled = open_cache(sim, directory=tmp_path / f"c{seed}")
        shuffled.load(tmp_path / "p.jsonl")
        shuffled.export(tmp_path / "p.jsonl", media=media)
        digests.add(hashlib.sha256((tmp_path / "p.jsonl").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_packs__are_merged_by_sort(cache, other, open_cache, sim, tmp_path):
    """Two with 30 % in common: ``sort -u`` is their union, in which each line of both is once."""
    for at in range(20):
        cache.ask(f"Question {at}")
    one, two, both = (tmp_path / f"{name}.jsonl" for name in ("one", "two", "both"))
    cache.export(one)
    lines = one.read_bytes().splitlines(keepends=True)
    two.write_bytes(b"".join(lines[:6]))
    other.load(two)
    for at in range(14):
        other.ask(f"Other question {at}")
    other.export(two)
    with both.open("wb") as file:
        environ = {**os.environ, "LC_ALL": "C"}
        subprocess.run(["sort", "-u", str(one), str(two)], stdout=file, check=True, env=environ)
    merged = open_cache(sim, directory=tmp_path / "merged")
    found = merged.load(both)
    assert (found.new, found.there, found.history, found.refused) == (34, 0, 0, 0)
    merged.export(tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == both.read_bytes()


def test_load__leaves_what_is_there(cache, other, sim, tmp_path):
    """Another answer to the same request is kept as history, once, and can be chosen there."""
    sim.script(Scenario(text="red"), times=1)
    cache.ask("Name a colour.")
    sim.script(Scenario(text="blue"), times=1)
    key = other.ask("Name a colour.").key
    cache.export(tmp_path / "p.jsonl")
    for there in (0, 1):
        found = other.load(tmp_path / "p.jsonl")
        assert (found.new, found.there, found.history) == (0, there, 1 - there)
    assert other.ask("Name a colour.") == "blue"
    (kept,) = other.store.unserved(key)
    other.pin(key, kept.number)
    assert other.ask("Name a colour.") == "red"


def test_load__takes_the_place_of_what_has_expired(cache, other, sim, clock, tmp_path):
    """What is not served any more is no answer that has to stay."""
    other.ask("Name a colour.", ttl="1h")
    clock.now_s += 7200
    fresh = cache.ask("Name a colour.")
    cache.export(tmp_path / "p.jsonl")
    assert other.load(tmp_path / "p.jsonl").new == 1
    count = sim.completion_count
    assert other.ask("Name a colour.").outcome.answer == fresh.outcome.answer
    assert sim.completion_count == count


def test_export__chooses(cache, tmp_path):
    """By the conditions of entries and purge; the others are refused with the name that was meant."""
    cache.ask("What is a median?", tag="stats")
    cache.ask("Name a colour.")
    pack = tmp_path / "p.jsonl"
    assert cache.export(pack, tag="stats").entries == 1
    assert cache.export(pack, text="colour", model="mini").entries == 1
    assert cache.export(pack, tag="none").entries == 0
    assert pack.read_bytes() == b""
    assert str(cache.load(pack)) == "p.jsonl: 0 new entries, 0 there already"
    with pytest.raises(OptionError, match="no condition tags") as caught:
        cache.export(pack, tags="stats")
    assert caught.value.hint == "did you mean tag?"


PASSWORDS = [
    "Connect with password=hunter2 please.",
    'db = connect(user="me", password="hunter2")',
    "DB_PASSWORD: s3cr3t!x",
    "export API_TOKEN='abc123def456'",
    "https://h/?access_token=abcd1234efgh&x=1",
    '{"client_secret": "9f8e7d6c5b"}',
    'conf["api_key"] = "k3k3k3k3k3"',
    "postgres://user:pw@host/db fails",
    "redis://:p4ss@cache:6379/0",
    "mongodb+srv://me:Zw9%21x@cluster0.mongodb.net",
]
NO_PASSWORDS = [
    "What is a good password: one with 12 characters, or a passphrase?",
    "password = getpass.getpass(); login(user, password=password)",
    "password=os.environ['DB_PASSWORD1'], token=tokens[0], token = row.token1",
    "max_tokens=1000, token: 3, tokens = 12345678, token count: 123456789012",
    "password=sha256(word), password == expected1, secret: Optional[str]",
    "postgres://user:password@host/db, redis://:${REDIS_PW1}@host, https://me:<pw1>@host",
    "password=<password1>, password=your_password1, API_KEY=xxxxxxx1, token=$TOKEN1, pwd=***12345",
    "see https://example.org:8080/a@b1 at 12:30@home, mail a:b1@c",
]


@pytest.mark.parametrize("prompt", PASSWORDS)
@pytest.mark.parametrize("form", ["pack", "chat"])
def test_export__is_refused_where_a_password_is_in_a_prompt(cache, tmp_path, prompt, form):
    """In a URL, or given to a name; the hint says what to do, also where it is none."""
    key = cache.ask("Why?", system=prompt).key
    with pytest.raises(OptionError, match=rf"a password stands in 1 request \({key[:10]}\)") as caught:
        cache.export(tmp_path / "p.jsonl", format=form)
    assert "if not, ask with <password> in its place" in caught.value.hint
    assert "p.jsonl" not in os.listdir(tmp_path)
    other = cache.ask("Why not?").key
    assert cache.export(tmp_path / "p.jsonl", other, format=form).entries == 1


@pytest.mark.parametrize("prompt", NO_PASSWORDS)
def test_export__knows_code_and_placeholders_from_passwords(cache, sim, tmp_path, prompt):
    """Texts about passwords, code that gets them and what stands in their place; what a model makes up stays."""
    sim.script(Scenario(text=f"Write {PASSWORDS[0]}"), times=1)
    cache.ask(prompt)
    cache.export(tmp_path / "p.jsonl")
    assert f"Write {PASSWORDS[0]}" in (tmp_path / "p.jsonl").read_text(encoding="utf-8")


SECRETS = [
    "sk-or-v1-" + "5e" * 32,
    "ghp_0123456789abcdefghij",
    "AKIAIOSFODNN7EXAMPLE",
    "npm_" + "aB3" * 12,
    "dckr_pat_" + "aB3" * 9,
    "pypi-" + "AgEI" * 10,
]


@pytest.mark.parametrize("secret", [*SECRETS[1:], "my-own-openrouter-key-0123456789"])
def test_export__is_refused_where_a_secret_is_in_a_request(open_cache, sim, tmp_path, secret):
    """The request can't be changed, or it would be another: nothing is written, and the entry is named."""
    cache = open_cache(sim, api_key="sk-or-v1-test")
    pack = tmp_path / "p.jsonl"
    cache.ask("Name a colour.")
    cache.export(pack)
    before = pack.read_bytes()
    cache._api_key = lambda: "my-own-openrouter-key-0123456789"
    key = (
        cache.ask(f"Why is {secret} refused?", system="no").key
        if secret in SECRETS
        else _stored(cache, secret)
    )
    with pytest.raises(OptionError, match=rf"in 1 request \({key[:10]}\); nothing was written") as caught:
        cache.export(pack)
    assert str(caught.value).startswith("what looks like a key, a token or a password stands in 1 request")
    assert f"%openrouter_purge {key[:10]}" in caught.value.hint
    assert pack.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == [".or_cache", "p.jsonl"]


def _stored(cache, text: str) -> str:
    cache._api_key = lambda: "sk-or-v1-test"
    key = cache.ask(f"Why is {text} refused?").key
    cache._api_key = lambda: text
    return key


def test_export__leaves_no_media_of_what_it_refused(cache, tmp_path):
    """Pictures of a pack that is not written are not written either."""
    cache.ask("Look.", attach=PNG)
    cache.ask(f"Why is {SECRETS[1]} refused?")
    with pytest.raises(OptionError, match="nothing was written"):
        cache.export(tmp_path / "p.jsonl", media="files")
    assert os.listdir(tmp_path) == [".or_cache"]


def test_export__hides_secrets_in_answers(cache, sim, tmp_path):
    """A key that a model wrote is not handed on; the rest of the answer is as it was."""
    sim.script(Scenario(text=f"It was {SECRETS[1]}, md5 {'5e' * 16}."), times=1)
    cache.ask("Name a colour.", tag=SECRETS[2])
    cache.export(tmp_path / "p.jsonl")
    text = (tmp_path / "p.jsonl").read_text(encoding="utf-8")
    assert f"It was …, md5 {'5e' * 16}." in text
    assert not any(secret in text for secret in SECRETS)


def test_export__leaves_other_files_alone(cache, tmp_path):
    """A notebook of that name is not lost; a pack is replaced."""
    notebook = tmp_path / "course.ipynb"
    notebook.write_text("{}", encoding="utf-8")
    cache.ask("Name a colour.")
    with pytest.raises(OptionError, match=r"course\.ipynb is there already"):
        cache.export(notebook)
    assert notebook.read_text(encoding="utf-8") == "{}"
    for name in (
        "no/such/folder",
        "",
        5,
        b"p.jsonl",
        "a\0b",
        "\ud800",
        "~nosuchuser/p",
        tmp_path,
        "x" * 5000,
    ):
        with pytest.raises(OptionError):
            cache.export(name)
        with pytest.raises(OptionError):
            cache.load(name)


# -- data sets --------------------------------------------------------------------------------------


def test_export__as_chat_is_messages_with_the_answer_last(cache, sim, tmp_path):
    """What is served, sorted by key: no history, no vectors, no secret; a second export replaces the first."""
    sim.script(Scenario(text=f"red, or {SECRETS[1]}"), times=1)
    bought = cache.ask("Name a colour.", system="Be brief.")
    sim.script(Scenario(text="blue"), times=1)
    cache.ask("Name another.", mode="refresh")
    cache.ask("Name another.", mode="refresh")
    cache.embed(["one"], model=EMBEDDING)
    for _ in range(2):
        found = cache.export(tmp_path / "d.jsonl", format="chat")
    assert (found.entries, found.history) == (2, 0)
    rows = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["key"] for row in rows] == sorted(row["key"] for row in rows)
    (row,) = [row for row in rows if row["key"] == bought.key]
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
    assert row["messages"][-1]["content"] == "red, or …"
    assert (row["model"], row["cost_usd"]) == (MODEL, float(bought.cost_usd))


def test_export__as_parquet_is_a_table(cache, tmp_path):
    """A row an answer, in pieces of bounded size; what a pack refuses is refused here too."""
    parquet = pytest.importorskip("pyarrow.parquet")
    answers = {cache.ask(f"Question {at}").key: at for at in range(5)}
    found = cache.export(tmp_path / "d.parquet", format="parquet")
    rows = parquet.read_table(tmp_path / "d.parquet").to_pylist()
    assert found.entries == len(rows) == 5
    assert [row["key"] for row in rows] == sorted(answers)
    for row in rows:
        question, answer = json.loads(row["messages"])
        assert question["content"] == f"Question {answers[row['key']]}"
        assert answer["content"] == row["answer"]
    assert {row["cost_source"] for row in rows} == {"reported"}
    before = (tmp_path / "d.parquet").read_bytes()
    cache.ask(f"Why is {SECRETS[1]} refused?")
    for form in ("parquet", "chat"):
        with pytest.raises(OptionError, match="in 1 request "):
            cache.export(tmp_path / f"d.{form}", format=form)
    assert (tmp_path / "d.parquet").read_bytes() == before
    with pytest.raises(OptionError, match="no such file"):
        cache.export(tmp_path / "d.parquet")
    with pytest.raises(OptionError, match="format='csv'"):
        cache.export(tmp_path / "d.csv", format="csv")


def test_export__as_parquet_says_what_it_needs(cache, tmp_path, monkeypatch):
    """Without pyarrow it is an error that names it, and nothing is written."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OptionError, match="needs pyarrow") as caught:
        cache.export(tmp_path / "d.parquet", format="parquet")
    assert "pip install pyarrow" in caught.value.hint
    assert not (tmp_path / "d.parquet").exists()


# -- what comes from a stranger ---------------------------------------------------------------------


@pytest.fixture
def line(cache, tmp_path):
    """The parts of the line of one answer."""
    cache.ask("Name a colour.", tag="t")
    cache.export(tmp_path / "good.jsonl")
    return json.loads((tmp_path / "good.jsonl").read_text(encoding="utf-8"))


def _with(line, path, value):
    copy = json.loads(json.dumps(line))
    at = copy
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    return copy


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["pack"], 2),
        (["pack"], True),
        (["kind"], "other"),
        (["kind"], "history"),
        (["keys"], "1"),
        (["created"], -1),
        (["created"], "now"),
        (["created"], 1e400),
        (["expires"], 1e300),
        (["request"], []),
        (["request", "messages"], "x"),
        (["request", "messages", 0, "content"], SECRETS[0]),
        (["request", "messages", 0, "content"], "\ud800"),
        (["request", "seed"], 10**400),
        (["sample"], -1),
        (["sample"], "x"),
        (["stream"], 1),
        (["base_url"], "http://user:pw@host/v1"),
        (["answer", "choices"], []),
        (["answer", "choices", 0, "finish_reason"], "content_filter"),
        (["answer", "choices", 0, "message"], "x"),
        (["answer", "choices", 0, "message", "content"], ""),
        (["answer", "complete"], False),
        (["answer", "usage", 0], 10**30),
        (["answer", "cost"], ["-5", "reported"]),
        (["answer", "cost"], ["1E+30000000", "reported"]),
        (["answer", "error"], {"code": 500}),
        (["tags"], ["a\x1fb"]),
        (["tags"], "x"),
        (["notebook"], "x" * 10_000),
        (["parent"], "x"),
        (["attached"], [[1]]),
        (["media"], [[["request"], None, "00"]]),
        (["media"], [[["answer", "choices", 0, "message", "content"], None, "00" * 32]]),
    ],
)
def test_load__refuses_what_can_not_be(other, line, tmp_path, path, value):
    """A line that claims what is impossible is refused alone, with why; what is right beside it is taken."""
    pack = tmp_path / "p.jsonl"
    line["keys"] = 0  # a line of older keys, whose own key is computed
    right = _with(line, ["request", "messages", 0, "content"], "Another.")
    pack.write_text(f"{json.dumps(_with(line, path, value))}\n{json.dumps(right)}\n", encoding="utf-8")
    found = other.load(pack)
    assert (found.new, found.refused) == (1, 1), found
    assert "line 1: " in str(found)
    assert "\n" not in str(found)


@pytest.mark.parametrize(
    "raw",
    [
        b"{}\n",
        b"no JSON\n",
        b"\xff\xfe{\x00}\x00\n",
        b"<<<<<<< ours\n",
        b"[" * 100_000 + b"\n",
        b'{"pack":1,"kind":"entry","x":' + b"[" * 500 + b"]" * 500 + b"}\n",
        b'{"pack":1,"kind":"entry","x":[' + b"{}," * 600_000 + b"{}]}\n",
        b'"' + b"x" * (1 << 25) + b'"\n',
        b'{"pack":' + b"9" * 5_000 + b"}\n",
    ],
    ids=["empty", "text", "utf-16", "conflict", "open", "deep", "parts", "long", "digits"],
)
def test_load__refuses_what_is_no_line(other, tmp_path, raw):
    """Whatever it is, it is an error of ours in two short lines, and nothing is made."""
    (tmp_path / "p.jsonl").write_bytes(raw)
    with pytest.raises(OptionError, match=r"p\.jsonl has no answer that could be taken: line 1: ") as caught:
        other.load(tmp_path / "p.jsonl")
    assert len(str(caught.value)) < 500
    assert not other.directory.exists()


def test_export__follows_no_link_of_its_media(cache, sim, tmp_path):
    """A link in the place of the media's folder is refused, and nothing is written where it leads."""
    sim.script(scenario("pictures"))
    cache.ask("Draw a fox.")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "p.media").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OptionError, match=r"p\.media is a link"):
        cache.export(tmp_path / "p.jsonl", media="files")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("vector", ["x", "", "AAAAAAAA", [1, 2], None, 1.5])
def test_load__refuses_a_vector_that_is_none(cache, other, tmp_path, vector):
    """No base64, not whole numbers of 32 bits, no text: refused alone."""
    pack = tmp_path / "p.jsonl"
    cache.embed(["a text"], model="openai/text-embedding-3-small")
    cache.export(pack)
    line = json.loads(pack.read_text())
    line["answer"]["choices"][0]["message"]["embedding"] = vector
    good = pack.read_text()
    pack.write_text(json.dumps(line) + "\n" + good)
    found = other.load(pack)
    assert (found.new, found.refused) == (1, 1), found


def test_load__keeps_all_that_were_asked_again(cache, other, sim, clock, tmp_path):
    """Answers of a verification that say what the stored one says are calls of their own: their pack is the same bytes."""
    sim.script(Scenario(text="red"))
    cache.ask("Name a colour.")
    for _ in range(2):
        clock.now_s += 10
        cache.verify(sample=1, progress=False)
    cache.export(tmp_path / "p.jsonl")
    assert str(other.load(tmp_path / "p.jsonl")).startswith("p.jsonl: 1 new entry")
    other.export(tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "p.jsonl").read_bytes()
    assert (tmp_path / "p.jsonl").read_bytes().count(b"\n") == 3


def test_load__trusts_no_key(other, line, tmp_path, sim):
    """A line with the key of another request is refused, and told: the one or the other was changed."""
    wanted = other.prepare("Name a book.", {}).key.digest
    lines = [
        line,
        {**line, "key": wanted},
        _with(line, ["request", "messages", 0, "content"], "Name a bird."),
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    found = other.load(tmp_path / "p.jsonl")
    assert (found.new, found.refused) == (1, 2)
    assert found.why[0] == f"line 2: its key is not that of its request, {line['key'][:10]}"
    assert [row.key for row in other.store.listing.find(EntryFilter())] == [line["key"]]


@pytest.mark.parametrize("keys", [0, 2])
def test_load__computes_the_keys_of_other_versions(other, line, tmp_path, keys):
    """A line whose key is of another version is found by the request's own key of this one."""
    given = {**line, "keys": keys, "key": "5e" * 32}
    (tmp_path / "p.jsonl").write_text(json.dumps(given) + "\n", encoding="utf-8")
    assert str(other.load(tmp_path / "p.jsonl")) == "p.jsonl: 1 new entry, 0 there already"
    assert other.store.entry(line["key"]) is not None


@pytest.mark.parametrize(
    "edit", [lambda raw: b"\xef\xbb\xbf" + raw, lambda raw: raw.replace(b"\n", b"\r\n\r\n")]
)
def test_load__reads_what_editors_make_of_it(cache, other, line, tmp_path, edit):
    """A byte order mark, Windows' line ends and blank lines."""
    (tmp_path / "p.jsonl").write_bytes(edit((tmp_path / "good.jsonl").read_bytes()))
    assert other.load(tmp_path / "p.jsonl").new == 1


def test_load__reads_no_pipe_and_no_folder(other, tmp_path):
    """A pipe would wait for its writer; a link in the media's folder would read any file."""
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "other", "."):
        with pytest.raises(OptionError, match="can't be read"):
            other.load(tmp_path / name)


@pytest.mark.parametrize("harm", ["gone", "changed", "link"])
def test_load__checks_media(cache, other, tmp_path, harm):
    """A file beside the pack must have its digest, and be one: the line is refused alone."""
    cache.ask("Look.", attach=PNG)
    cache.ask("Name a colour.")
    cache.export(tmp_path / "p.jsonl", media="files")
    (file,) = (tmp_path / "p.media").iterdir()
    assert file.read_bytes() == PNG
    raw = file.read_bytes()
    file.unlink()
    if harm == "changed":
        file.write_bytes(raw[:-1])
    elif harm == "link":
        (tmp_path / "elsewhere").write_bytes(raw)
        file.symlink_to(tmp_path / "elsewhere")
    found = other.load(tmp_path / "p.jsonl")
    assert (found.new, found.refused) == (1, 1)
