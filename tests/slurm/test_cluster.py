"""The cluster that other tests rely on behaves like one: it holds back, requeues, and survives the loss of a node."""

import pytest

pytestmark = pytest.mark.xdist_group("slurm")  # one cluster

RECORD = "#!/bin/sh\necho ${SLURM_ARRAY_TASK_ID}:${SLURM_RESTART_COUNT:-0}:$SLURMD_NODENAME:$(date +%s.%N) >> starts; "


def submit(cluster, folder, script, *options):
    return cluster.run("sbatch", "--parsable", "--output=/dev/null", *options, input=RECORD + script + "\n", cwd=folder)


def starts(folder):
    return [line.split(":") for line in (folder / "starts").read_text().splitlines()]


def test_array_runs_every_task_and_at_most_two_at_once(cluster, tmp_path):
    job = submit(cluster, tmp_path, "sleep 1", "--array=0-3%2")
    cluster.wait_for(lambda: not cluster.run("squeue", "-h", "-j", job), "the array")
    started = starts(tmp_path)
    assert sorted(task for task, *_ in started) == ["0", "1", "2", "3"]
    times = sorted(float(when) for *_, when in started)
    assert all(third - first >= 1 for first, third in zip(times, times[2:]))  # a third task waits for one of two to end


def test_requeued_job_starts_again_and_knows_it(cluster, tmp_path):
    job = submit(cluster, tmp_path, "[ $SLURM_RESTART_COUNT ] || exec sleep 60")
    cluster.wait_for(lambda: (tmp_path / "starts").exists(), "the job to start")
    cluster.run("scontrol", "requeue", job)
    cluster.wait_for(lambda: not cluster.run("squeue", "-h", "-j", job), "the requeued job")
    assert [restart for _, restart, *_ in starts(tmp_path)] == ["0", "1"]


def test_job_of_a_dead_node_starts_again_on_the_other(cluster, tmp_path):
    job = submit(cluster, tmp_path, "[ $SLURM_RESTART_COUNT ] || exec sleep 60")
    cluster.wait_for(lambda: (tmp_path / "starts").exists(), "the job to start")
    [(_, _, first, _)] = starts(tmp_path)
    assert cluster.processes(first)
    cluster.kill_node(first)
    try:
        assert not cluster.processes(first)
        cluster.wait_for(lambda: not cluster.run("squeue", "-h", "-j", job), "the requeued job")
    finally:
        cluster.start_node(first)
    assert [(restart, node == first) for _, restart, node, _ in starts(tmp_path)] == [("0", True), ("1", False)]
