"""A project folder with a JupyterLab of its own, and a page to meet it on."""
import shutil
from pathlib import Path

import pytest

from . import lab as labs

ROOT = Path(__file__).resolve().parent.parent.parent


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("browser"))
            if labs.CHROMIUM is None:
                item.add_marker(pytest.mark.skip(reason="there is no Chromium; `make browser` installs it as root"))


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    "A folder that counts as the project, with the explore notebooks and nothing else."
    folder = tmp_path_factory.mktemp("project")
    (folder / "settings.ini").touch()
    shutil.copytree(ROOT / "nbs" / "explore", folder / "explore", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    return folder


@pytest.fixture(scope="session")
def lab(project, tmp_path_factory):
    server = labs.Lab(project, tmp_path_factory.mktemp("lab"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def chromium():
    with labs.browser() as browser:
        yield browser


@pytest.fixture
def page(chromium):
    context = chromium.new_context()
    yield context.new_page()
    context.close()
