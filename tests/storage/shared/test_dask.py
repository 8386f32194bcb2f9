"""A table on the workers of a Dask cluster that share a team's server; see docs/teams.md."""

from __future__ import annotations

import multiprocessing
import os

import pytest

distributed = pytest.importorskip("distributed", reason="pip install distributed")

ROWS, DISTINCT, WORKERS = 240, 60, 4


def answered(folder, texts):
    """One part of the table, on a worker: each has a folder of its own, and all have one server."""
    import or_cache_magic as orc

    with orc.open_cache(os.path.join(folder, str(os.getpid()))) as cache:
        answers = cache.map(texts, "Good or bad? {{ row }}", model="openai/gpt-4o-mini", progress=False)
        return [str(answer) for answer in answers], os.getpid()


def test_dask__asks_each_distinct_row_once_in_all(tmp_path, redis_server, sim, monkeypatch):
    """Four processes, eight parts with the same rows in them: as many requests as there are distinct rows."""
    variables = {
        "OPENROUTER_BASE_URL": sim.base_url,
        "OPENROUTER_API_KEY": sim.api_key,
        "OR_CACHE_SHARED_URL": redis_server.url,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    texts = [f"Review {i % DISTINCT}." for i in range(ROWS)]
    parts = [texts[start::8] for start in range(8)]
    with (
        distributed.LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        futures = client.map(answered, [str(tmp_path)] * 8, parts, pure=False)
        found = client.gather(futures)
    assert len({pid for _, pid in found}) > 1
    assert multiprocessing.current_process().pid not in {pid for _, pid in found}
    assert [len(answers) for answers, _ in found] == [ROWS // 8] * 8
    by_text = {}
    for part, (answers, _) in zip(parts, found, strict=True):
        for text, answer in zip(part, answers, strict=True):
            assert by_text.setdefault(text, answer) == answer
    assert sim.completion_count == DISTINCT
