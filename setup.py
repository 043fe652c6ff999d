"""Reads settings.ini, which nbdev keeps, so that every fact about the package stands once."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

settings = ConfigParser(delimiters=["="])
settings.read("settings.ini", encoding="utf-8")
settings = settings["DEFAULT"]
bench = settings["bench_requirements"].split()

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    license="Apache-2.0",
    python_requires=f">={settings['min_python']}",
    packages=find_packages(include=["mil_workbench", "mil_workbench.*"]),
    package_data={"mil_workbench.viewers": ["static/*"]},
    install_requires=settings["requirements"].split(),
    entry_points={"console_scripts": ["mil-workbench = mil_workbench.jobs.cli:main"]},
    extras_require={"bench": bench, "dev": settings["dev_requirements"].split() + bench},
)
