"""Takes the README's pictures: each explore notebook on small runs, as a person meets it."""

import os
import shutil
import tempfile
from pathlib import Path

from PIL import Image

from . import lab as labs

ROOT = Path(__file__).resolve().parent.parent.parent
SHOWN = {  # notebook: what is brought into view, by its class
    "attention_overlays": ".mil-viewer",
    "selector_temperature": ".mil-viewer",
    "gradient_flow": ".jp-OutputArea-output .widget-vbox",
    "run_browser": ".mil-viewer",
}


def take(lab: labs.Lab, page, notebook: str, selector: str) -> None:
    "Run `notebook` and keep a picture of its first viewer."
    lab.open(page, f"explore/{notebook}.ipynb")
    lab.run_all(page)
    shown = page.locator(selector).first
    shown.scroll_into_view_if_needed()
    page.wait_for_timeout(2000)
    path = ROOT / "nbs" / "images" / f"{notebook}.png"
    path.parent.mkdir(exist_ok=True)
    shown.screenshot(path=path)
    with Image.open(path) as picture:
        picture.convert("RGB").save(path, optimize=True)  # all its colours: fewer would make steps of a colour bar
    print(f"{path}: {path.stat().st_size / 1024:.0f} KB")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, labs.browser() as browser:
        project = Path(folder, "project")
        shutil.copytree(
            ROOT / "nbs" / "explore", project / "explore"
        )  # JupyterLab keeps what is run; the chapters stay clean
        (project / "settings.ini").touch()
        lab = labs.Lab(project, Path(folder, "home"))
        try:
            for notebook, selector in SHOWN.items():
                take(lab, browser.new_page(), notebook, selector)
        finally:
            lab.close()


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
