"""JupyterLab as a person meets it: a server of its own, Debian's Chromium, a notebook opened and run from top to bottom."""
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)
WINDOW = {"width": 1280, "height": 1000}


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
        own |= {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "IPYTHONDIR": str(home / "ipython")}
        command = [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={self.port}", f"--ServerApp.base_url={prefix}", "--ServerApp.ip=127.0.0.1",
            f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={root}", "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            "--ServerApp.terminals_enabled=False",
        ]
        home.mkdir(parents=True, exist_ok=True)
        self.log = open(home / "server.log", "w")
        self.process = subprocess.Popen(command, cwd=root, env={**os.environ, **own, "MPLBACKEND": ""}, stdout=self.log, stderr=self.log)
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.url}api?token={self.token}", timeout=5)
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(Path(self.log.name).read_text())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.log.close()

    def open(self, page: Page, notebook: str) -> None:
        "Open `notebook`, a path below the root, in a workspace of its own."
        page.set_viewport_size(WINDOW)
        page.goto(f"{self.url}lab/workspaces/{secrets.token_hex(4)}/tree/{notebook}?reset&token={self.token}")
        page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=60_000)
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first.wait_for(timeout=60_000)
        page.wait_for_timeout(1500)  # LOCAL: what is run while the kernel still connects is lost

    def run_all(self, page: Page, timeout: float = 120) -> None:
        "Run every cell and wait until the last one has ended; a cell that fails is an AssertionError with its traceback."
        page.keyboard.press("Escape")
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        code = page.locator(".jp-CodeCell")
        for _ in range(int(timeout * 5)):
            page.wait_for_timeout(200)
            failed = page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']")
            assert failed.count() == 0, failed.first.inner_text()
            prompts = [text.strip() for text in page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()]
            if prompts and all(text not in ("[*]:", "[ ]:", "[]:") for text in prompts) and code.count():
                return
        raise AssertionError(f"the notebook did not end within {timeout} s: {prompts}")
