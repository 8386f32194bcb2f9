"""The caches we are measured against, each in a virtual environment of its own: their needs clash.

::

    python benchmarks/peers.py --install DIR    # once; some hundred megabytes
    python benchmarks/run.py --peers DIR
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path

REQUIREMENTS = {
    "dspy_disk": ("dspy",),
    "langchain_sqlite": ("langchain-openai", "langchain-community"),
    # Its hit path imports the last three, and no extra of it brings them without the whole proxy.
    "instructor": ("instructor", "diskcache"),
    "curator": ("bespokelabs-curator",),
    "semlib": ("semlib",),
    "litellm_local": ("litellm", "fastapi", "orjson", "soundfile"),
}
"""What each peer's contestant needs, by the contestant's name."""

QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "ANONYMIZED_TELEMETRY": "False"}
"""Environment in which no peer calls home."""

HOW = "python benchmarks/peers.py --install DIR, then run.py --peers DIR"


def interpreter(directory: Path | None, name: str) -> str | None:
    """The interpreter that has a peer; None when it is not installed."""
    if directory is None:
        return None
    place = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    path = directory.absolute().joinpath(name, *place)
    return str(path) if path.exists() else None


def install(directory: Path) -> None:
    for name, requirements in REQUIREMENTS.items():
        print(f"{name}: {' '.join(requirements)}", flush=True)
        venv.create(directory / name, with_pip=True)
        python = interpreter(directory, name)
        assert python is not None
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Install the peers that run.py races against.")
    parser.add_argument(
        "--install", type=Path, required=True, metavar="DIR", help="where to make the environments"
    )
    try:
        install(parser.parse_args().install)
    except subprocess.CalledProcessError as exc:
        sys.exit(f"pip failed with {exc.returncode}; what it said is above")


if __name__ == "__main__":
    main()
