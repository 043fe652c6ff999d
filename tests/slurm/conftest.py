"""A real Slurm for the tests of this folder, started once."""

import os
import shutil

import pytest

from .cluster import Cluster

PACKAGES = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
}  # command: Debian package


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if os.geteuid() or not all(shutil.which(command, path=path) for command in PACKAGES):
        pytest.skip(f"needs root and Slurm: apt-get install --no-install-recommends {' '.join(PACKAGES.values())}")
    with Cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running
