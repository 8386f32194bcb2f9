"""JupyterLab, Notebook 7 and Chromium, real ones, and a notebook opened in them as a user does.

Nothing leaves the machine: the server and the browser listen and talk on 127.0.0.1 only. Settings, workspaces and
kernels' folders are the server's own, so that nobody's habits are read or changed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

try:
    from playwright.sync_api import expect
except ImportError:  # without it nothing here runs
    expect = None

__all__ = ["LIVE", "Browser", "Jupyter", "OpenNotebook", "Watch", "chromium", "expect"]

PACKAGES = ("jupyterlab", "notebook", "ipywidgets", "playwright", "axe_playwright_python")
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
HOW = "to install: apt-get install chromium; pip install --group browser"

FLAGS = (
    "--no-sandbox",  # root, in a container
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Also what asks for no leave, such as prefetching, finds nobody.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)

#: What the front ends themselves complain of: a page that is loaded again while they ask for the debugger;
#: in Notebook 7 also that its application is exposed to tests, and fonts that it refuses MathJax.
KNOWN_ERRORS = {
    "lab": ("Could not restore the debugger state",),
    "notebook": (
        "Could not restore the debugger state",
        "reading 'schema'",
        "Command 'filebrowser:open-path' not registered",
        ".woff",
    ),
}

WIDGET = "window.jupyterapp?.shell?.currentWidget"
KERNEL = f"{WIDGET}?.sessionContext?.session?.kernel"
CODE_CELLS = (
    f"{WIDGET}.content.widgets.filter(c => c.model.type === 'code' && c.model.sharedModel.getSource().trim())"
)


FAILED = f"{CODE_CELLS}.flatMap(c => c.model.outputs.toJSON()).filter(o => o.output_type === 'error')"

# Of each of these nodes: what below it could run, load, or lead to something other than a page.
LIVE = """([nodes, tags]) => nodes.map(child => {
    const found = [];
    for (const node of child.querySelectorAll('*')) {
        const tag = node.localName;
        if (!tags.includes(tag) && !tag.startsWith('mjx-') && !node.closest('mjx-container')) found.push(tag);
        for (const { name, value } of node.attributes) {
            if (name.startsWith('on') || ['src', 'srcset', 'srcdoc', 'action', 'formaction', 'data', 'background',
                'poster', 'ping'].includes(name)) found.push(`${tag} ${name}=${value}`);
            if (name.endsWith('href') &&
                !['http:', 'https:', 'mailto:'].includes(new URL(value, document.baseURI).protocol))
                found.push(`${tag} ${name}=${value}`);
            if (name === 'style' && /url|expression|import/i.test(value)) found.push(`${tag} ${name}=${value}`);
        }
    }
    return found;
})"""


def chromium() -> str:
    """The path of a Chromium; skips the test where it or a package is not installed, but never in CI."""
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if program and not missing:
        return program
    why = f"missing: {', '.join([*missing, *([] if program else ['chromium'])])}; {HOW}"
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


# Ends with the tests, also when they are killed: then nobody holds the other end of its standard input.
SERVER = """
import os, runpy, signal, sys, threading
end = lambda: (sys.stdin.read(), os.kill(os.getpid(), signal.SIGTERM))
threading.Thread(target=end, daemon=True).start()
runpy.run_module("jupyterlab", run_name="__main__", alter_sys=True)
"""

# -- the server -----------------------------------------------------------------------------------


class Jupyter:
    """One server for JupyterLab and Notebook 7, on a free port, that nothing outside has configured.

    Args:
        folder: Where it keeps what is its own; the notebooks are below ``root``.
        variables: What its kernels find in their environment.
    """

    def __init__(self, folder: Path, **variables: str) -> None:
        self.root = folder / "notebooks"
        self.root.mkdir()
        self._log = folder / "server.log"
        self._token = secrets.token_hex(16)
        self._environ = {**_environment(folder), **variables}
        _settings(folder / "settings")

    def start(self) -> Jupyter:
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{port}"
        options = {
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.port": port,
            "ServerApp.port_retries": 0,
            "ServerApp.root_dir": self.root,
            "ServerApp.terminals_enabled": False,
            "IdentityProvider.token": self._token,
            "LabApp.expose_app_in_browser": True,
            "LabApp.extension_manager": "readonly",
            "JupyterNotebookApp.expose_app_in_browser": True,
        }
        command = [sys.executable, "-c", SERVER, "--no-browser", "--allow-root"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, *(f"--{name}={value}" for name, value in options.items())],
                cwd=self.root,
                env=self._environ,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that the whole group can be stopped
            )
        self._wait()
        return self

    def _wait(self, within_s: float = 60.0) -> None:
        give_up_s = time.monotonic() + within_s
        while time.monotonic() < give_up_s and self._process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(self.url("api/status"), timeout=2):
                return
            time.sleep(0.05)
        log = self._log.read_text(encoding="utf-8", errors="replace")[-3000:]
        self.stop()
        pytest.fail(f"JupyterLab did not start:\n{log}")

    def url(self, path: str) -> str:
        return f"{self.base_url}/{path}?token={self._token}"

    def stop(self) -> None:
        """Ends it with its kernels."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, sign)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(15)
                return


def _environment(folder: Path) -> dict[str, str]:
    """The machine's environment with nothing of this package's in it, and no user's configuration."""
    foreign = ("OPENROUTER_", "OPENAI_", "OR_CACHE_", "JPY_", "JUPYTER", "COV_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(foreign) and not name.lower().endswith("_proxy")
    }
    own = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    return {**kept, **{name: str(folder / part) for name, part in own.items()}}


def _settings(folder: Path) -> None:
    """Nothing pops up, neither news nor updates."""
    quiet = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
    place = folder / "@jupyterlab" / "apputils-extension"
    place.mkdir(parents=True)
    (place / "notification.jupyterlab-settings").write_text(json.dumps(quiet))


# -- the browser ----------------------------------------------------------------------------------


@dataclass
class Watch:
    """What a page did by itself; all of it is unexpected but the bytes.

    Attributes:
        base_url: The server's; requests to it are expected.
        known_errors: Parts of messages of the front end itself.
        spoiled: Whether a test let hostile texts loose on the page, so that nobody may use it after.
    """

    base_url: str
    known_errors: tuple[str, ...] = ()
    spoiled: bool = False
    errors: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    #: Bytes that kernels sent to the page.
    received_bytes: int = 0

    def attach(self, page: Any) -> None:
        page.on(
            "console",
            lambda said: said.type == "error" and self._error(f"{said.text} {said.location['url']}"),
        )
        page.on("pageerror", lambda error: self._error(str(error)))
        page.on("dialog", self._dialog)
        page.on("request", lambda request: self._request(request.url))
        page.on("popup", lambda popup: self._request(popup.url))
        page.on("websocket", self._websocket)

    def _error(self, text: str) -> None:
        if not any(known in text for known in self.known_errors):
            self.errors.append(text)

    def _dialog(self, dialog: Any) -> None:
        if dialog.type == "beforeunload":  # a page that is left with unsaved cells
            dialog.accept()
            return
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def _request(self, url: str) -> None:
        if not url.startswith((f"{self.base_url}/", "data:", "blob:", "about:")):
            self.requests.append(url)

    def _websocket(self, socket: Any) -> None:
        self._request(socket.url.replace("ws://", "http://", 1))
        if "/channels" in socket.url:
            socket.on("framereceived", self._frame)

    def _frame(self, payload: str | bytes) -> None:
        self.received_bytes += len(payload.encode() if isinstance(payload, str) else payload)

    def assert_quiet(self) -> None:
        """No error on the console, no dialog, no request but to the server."""
        happened = {"errors": self.errors, "dialogs": self.dialogs, "requests": self.requests}
        assert not any(happened.values()), happened


class Browser:
    """A Chromium that opens notebooks of one server: one page for JupyterLab, one for each Notebook 7."""

    def __init__(self, server: Jupyter, playwright: Any, program: str) -> None:
        self._server = server
        self._browser = playwright.chromium.launch(executable_path=program, headless=True, args=list(FLAGS))
        self.context = self._browser.new_context(viewport={"width": 1280, "height": 1000})
        self.context.set_default_timeout(30_000)
        self._lab: tuple[Any, Watch] | None = None

    def open(self, path: Path, app: str = "lab") -> OpenNotebook:
        """A notebook below the server's root, opened, with its kernel ready."""
        name = path.relative_to(self._server.root).as_posix()
        page, watch = self._lab_page() if app == "lab" else self._page(f"notebooks/{name}", app)
        opened = OpenNotebook(page, watch, path.parent, app)
        if app == "lab":
            page.evaluate(
                "async path => { await window.jupyterapp.commands.execute('docmanager:open', { path }) }",
                name,
            )
        opened.wait_for_kernel()
        return opened

    def close(self, notebook: OpenNotebook) -> None:
        """Ends its kernel and shuts it, without saving."""
        notebook.page.evaluate(f"""async () => {{
            const widget = {WIDGET};
            await widget.sessionContext.shutdown();
            widget.dispose();
        }}""")
        if notebook.app != "lab":
            notebook.page.close()

    def drop(self) -> None:
        """Leaves JupyterLab's page; the next notebook gets a new one."""
        if self._lab is not None:
            self._lab[0].close()
            self._lab = None

    def quit(self) -> None:
        self._browser.close()

    def _lab_page(self) -> tuple[Any, Watch]:
        # JupyterLab takes four seconds to come up, a notebook in it less than one.
        if self._lab is None:
            self._lab = self._page("lab", "lab", "&reset")
            self._lab[0].wait_for_function("() => window.jupyterapp?.shell?.restored")
            self._lab[0].evaluate("() => window.jupyterapp.shell.restored")
        return self._lab

    def _page(self, path: str, app: str, more: str = "") -> tuple[Any, Watch]:
        page, watch = self.context.new_page(), Watch(self._server.base_url, KNOWN_ERRORS[app])
        watch.attach(page)
        page.goto(self._server.url(path) + more)
        return page, watch


class OpenNotebook:
    """One notebook in the browser.

    Attributes:
        page: Playwright's page.
        watch: What that page did by itself.
        folder: The notebook's folder; its completion cache is in ``.or_cache`` there.
        app: ``lab`` or ``notebook``.
    """

    def __init__(self, page: Any, watch: Watch, folder: Path, app: str) -> None:
        self.page, self.watch, self.folder, self.app = page, watch, folder, app

    # -- running --

    def wait_for_kernel(self) -> None:
        self.page.wait_for_function(f"() => {KERNEL}?.status === 'idle' && {WIDGET}.content.widgets.length")

    def start_all(self) -> None:
        """Runs all cells, and does not wait."""
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")

    def run_all(self) -> None:
        """Runs all cells; each must succeed."""
        self._command("notebook:run-all-cells")
        self.wait_until_run()

    def run_cell(self, number: int) -> None:
        """Runs one cell; it must succeed."""
        self.page.evaluate(
            "number => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = number }", number
        )
        self._command("notebook:run-cell")
        self._assert_no_errors()

    def wait_until_run(self) -> None:
        """Waits until every cell has run, or one has failed, which is an error here."""
        done = f"{CODE_CELLS}.every(c => c.model.executionCount) || {FAILED}.length"
        self.page.wait_for_function(f"() => {KERNEL}.status === 'idle' && ({done})")
        self._assert_no_errors()

    def _assert_no_errors(self) -> None:
        errors = self.page.evaluate(f"() => {FAILED}")
        assert not errors, "\n".join(errors[0]["traceback"])

    def restart(self) -> None:
        """A new kernel, and no outputs."""
        self.page.evaluate(f"async () => {{ await {KERNEL}.restart() }}")
        self._command("notebook:clear-all-cell-outputs")
        self.wait_for_kernel()

    def interrupt(self) -> None:
        """Interrupts what runs, and waits until the kernel takes requests again; those that come too soon it drops."""
        self.page.evaluate(f"""async () => {{
            await {KERNEL}.interrupt();
            let reply;
            do {{ reply = await {KERNEL}.requestExecute({{ code: '', silent: true }}).done }}
            while (reply.content.status !== 'ok');
        }}""")

    def kernel_eval(self, expression: str) -> str:
        """The repr of an expression in the kernel, asked without a cell."""
        text: str = self.page.evaluate(
            f"""async code => {{
                const future = {KERNEL}.requestExecute(
                    {{ code: '', silent: true, store_history: false, user_expressions: {{ r: code }} }});
                const result = (await future.done).content.user_expressions.r;
                if (result.status !== 'ok') throw new Error(result.ename + ': ' + result.evalue);
                return result.data['text/plain'];
            }}""",
            expression,
        )
        return text

    def execute(self, code: str) -> None:
        """Has the kernel run code without a cell, and does not wait."""
        self.page.evaluate(f"code => {{ {KERNEL}.requestExecute({{ code }}) }}", code)

    # -- looking --

    @property
    def cells(self) -> list[dict[str, Any]]:
        """The cells as they would be saved."""
        content = self.page.evaluate(f"() => {WIDGET}.content.model.toJSON()")
        found: list[dict[str, Any]] = content["cells"]
        return found

    def cell(self, number: int) -> Any:
        """The cell on the screen; a long notebook has only those there that can be seen."""
        self.page.evaluate(f"number => {WIDGET}.content.scrollToItem(number, 'center')", number)
        found = self.page.locator(f'.jp-Notebook .jp-Cell[data-windowed-list-index="{number}"]')
        found.wait_for()
        return found

    def output(self, number: int) -> Any:
        """What a cell shows below its source."""
        return self.cell(number).locator(".jp-Cell-outputWrapper .jp-OutputArea")

    def _command(self, name: str, **options: str) -> None:
        """Does what a menu entry does, to its end."""
        self.page.evaluate(
            "async ([name, options]) => { await window.jupyterapp.commands.execute(name, options) }",
            [name, options],
        )

    def save(self) -> None:
        self.page.evaluate(f"() => {WIDGET}.context.save()")

    def theme(self, name: str) -> None:
        """``Light`` or ``Dark``, as the menu has it."""
        self._command("apputils:change-theme", theme=f"JupyterLab {name}")
        light = str(name == "Light").lower()
        self.page.wait_for_selector(f'body[data-jp-theme-light="{light}"]', state="attached")

    def axe(self, selector: str) -> list[str]:
        """What axe-core has against a part of the page: rules of WCAG 2.1 A and AA, and best practice."""
        import axe_playwright_python

        script = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
        self.page.evaluate(script)
        rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
        found = self.page.evaluate(
            "([part, runOnly]) => axe.run(part, { runOnly, resultTypes: ['violations'] })", [selector, rules]
        )
        assert found["passes"], f"axe found nothing to look at in {selector}"
        return [
            f"{one['id']} ({one['impact']}): {node['html'][:200]}"
            for one in found["violations"]
            for node in one["nodes"]
        ]
