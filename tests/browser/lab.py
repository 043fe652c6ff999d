"""JupyterLab as a person meets it: a server of its own, Debian's Chromium, and notebooks opened and run there."""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 300_000  # milliseconds that a busy machine may take for anything; only a failure waits so long
expect.set_options(timeout=PATIENCE)
WINDOW = {"width": 1280, "height": 1000}
# what runs before JupyterLab knows of widgets is shown as text
KNOWS_WIDGETS = "() => window.jupyterapp?.isPluginActivated('@jupyter-widgets/jupyterlab-manager:plugin')"
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}
}  # no question in the corner


@contextmanager
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield opened
        opened.close()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class Lab:
    "A JupyterLab server on `root`, perhaps behind a path `prefix`, with settings and workspaces of its own in `home`."

    def __init__(self, root: Path, home: Path, prefix: str = "/"):
        self.root, self.token, self.port, self.prefix = root, secrets.token_hex(16), free_port(), prefix
        own = {f"JUPYTER{name}": str(home / name.lower()) for name in ("_CONFIG_DIR", "_RUNTIME_DIR", "_DATA_DIR")}
        own |= {
            "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
            "IPYTHONDIR": str(home / "ipython"),
        }
        command = [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--allow-root",
            f"--port={self.port}",
            f"--ServerApp.base_url={prefix}",
            "--ServerApp.ip=127.0.0.1",
            f"--IdentityProvider.token={self.token}",
            f"--ServerApp.root_dir={root}",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            "--ServerApp.terminals_enabled=False",
            "--LabApp.expose_app_in_browser=True",
        ]
        self.settings = settings = home / "settings" / "@jupyterlab"
        for name, values in SETTINGS.items():
            (settings / name).parent.mkdir(parents=True, exist_ok=True)
            (settings / name).with_suffix(".jupyterlab-settings").write_text(json.dumps(values))
        self.log = (home / "server.log").open("w")
        self.process = subprocess.Popen(
            command, cwd=root, env={**os.environ, **own, "MPLBACKEND": ""}, stdout=self.log, stderr=self.log
        )
        for _ in range(6000):
            try:
                urllib.request.urlopen(f"{self.url}api?token={self.token}", timeout=60)
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(Path(self.log.name).read_text())

    def end_kernels(self) -> None:
        "End the kernels of the notebooks that were opened."
        for kernel in json.load(urllib.request.urlopen(f"{self.url}api/kernels?token={self.token}")):
            urllib.request.urlopen(
                urllib.request.Request(f"{self.url}api/kernels/{kernel['id']}?token={self.token}", method="DELETE")
            )

    def use_theme(self, name: str) -> None:
        "Have pages that are loaded from now on look like this."
        (self.settings / "apputils-extension" / "themes.jupyterlab-settings").write_text(json.dumps({"theme": name}))

    def kernel(self) -> psutil.Process:
        "The process of the kernel that was started last."
        children = psutil.Process(self.process.pid).children(recursive=True)
        return max(
            (child for child in children if "ipykernel_launcher" in " ".join(child.cmdline())),
            key=lambda child: child.create_time(),
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.log.close()

    def open(self, page: Page, notebook: str) -> None:
        "Open `notebook`, a path below the root, in a workspace of its own."
        page.set_viewport_size(WINDOW)
        page.set_default_timeout(PATIENCE)
        page.goto(f"{self.url}lab/workspaces/{secrets.token_hex(4)}/tree/{notebook}?reset&token={self.token}")
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        page.wait_for_function(KNOWS_WIDGETS)

    def show(self, page: Page, *cells: str) -> None:
        "Write the code `cells` into a notebook of their own, open it and run it."
        name = f"{secrets.token_hex(4)}.ipynb"
        write_notebook(self.root / name, *cells)
        self.open(page, name)
        self.run_all(page)

    def run_all(self, page: Page, timeout: float = 600) -> None:
        "Run every cell until the last has ended; raise an AssertionError with the traceback of one that fails."
        prompts = lambda: [text.strip() for text in page.locator(".jp-CodeCell .jp-InputPrompt").all_text_contents()]
        until = time.monotonic() + timeout
        if not all(text == "[ ]:" for text in prompts()):  # JupyterLab has saved what an earlier test ran
            page.get_by_role("menuitem", name="Edit", exact=True).click()
            page.get_by_role("menuitem", name="Clear Outputs of All Cells", exact=True).click()
        while all(text == "[ ]:" for text in prompts()):  # a notebook that has just been opened may not listen yet
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
            page.wait_for_timeout(500)
        while not all(re.fullmatch(r"\[\d+\]:", text) for text in prompts()):
            failed = page.locator(
                "[data-mime-type='application/vnd.jupyter.error'], "
                "[data-mime-type='application/vnd.jupyter.stderr']:has-text('Traceback')"
            )
            assert failed.count() == 0, failed.first.inner_text()
            assert time.monotonic() < until, f"the notebook did not end within {timeout} s: {prompts()}"
            page.wait_for_timeout(200)
        failed = page.locator("[data-mime-type='application/vnd.jupyter.error']")
        assert failed.count() == 0, failed.first.inner_text()


NEXT_CASE = """async ([n, rest]) => {
    const heading = document.querySelector(".mil-heading");
    const took = [];
    for (let i = 0; i < n; i++) {
        const start = performance.now();
        await new Promise((go) => {
            const watch = new MutationObserver(() => (watch.disconnect(), go()));
            watch.observe(heading, { childList: true });
            document.querySelector("[aria-label='next case']").click();
        });
        for (const canvas of document.querySelectorAll(".mil-pane canvas")) {
          canvas.getContext("2d").getImageData(0, 0, 1, 1); // waits for what was drawn
        }
        took.push(performance.now() - start);
        await new Promise((go) => setTimeout(go, rest));
    }
    return took;
}"""


def go_through_cases(lab: Lab, page: Page, n: int, rest: int) -> tuple[list[float], float]:
    """Press the button for the next case `n` times, `rest` milliseconds apart.

    Return how long each took, in milliseconds, and by how much the kernel grew, in MB.
    """
    kernel = lab.kernel()
    before = kernel.memory_info().rss
    took = page.evaluate(NEXT_CASE, [n, rest])
    return took, (kernel.memory_info().rss - before) / 1e6


def write_notebook(path: Path, *cells: str) -> None:
    "Write a notebook of the code `cells`."
    made = [
        {
            "cell_type": "code",
            "id": f"cell{i}",
            "metadata": {},
            "source": textwrap.dedent(cell).strip(),
            "outputs": [],
            "execution_count": None,
        }
        for i, cell in enumerate(cells)
    ]
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    path.write_text(json.dumps({"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}))
