"""The longer run notebooks, made small."""

import json

import pytest
from conftest import ROOT


@pytest.fixture
def project(tmp_path):
    "A folder that counts as the project, so that runs land in it."
    (tmp_path / "settings.ini").touch()
    (tmp_path / "nbs").symlink_to(ROOT / "nbs")
    return tmp_path


def printed(path) -> str:
    outputs = [out for cell in json.loads(path.read_text())["cells"] for out in cell.get("outputs", [])]
    return "\n".join(
        "".join(out.get("text", "")) + "".join(out.get("data", {}).get("text/plain", "")) for out in outputs
    )


@pytest.mark.slow  # minutes; the chapter studies/peer_benchmark tries its functions on few rows
def test_peer_benchmark(run_notebook, project):
    done = run_notebook(
        "peer_benchmark", seconds_per_row=0.1, least_rounds=2, hidden_features=16, largest=300, single=2000
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "to the fastest peer, at most 1.05" in printed(project / "out.ipynb")


@pytest.mark.slow  # minutes: every model is trained six times; the chapter studies/gpu_check tries its functions
def test_gpu_check_is_tried_on_a_cpu(run_notebook, project):
    done = run_notebook("gpu_check", device="cpu", seconds_per_row=0.1, largest=200, n_images=4)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "rows pass" in printed(project / "out.ipynb")


def test_benchmarks(run_notebook, project):
    options = {
        "cohorts": "musk1",
        "models": "mean,clam_sb,transformer",
        "repetitions": 1,
        "named": "mean",
        "named_repetitions": 2,
        "n_folds": 2,
        "epochs": 2,
    }
    done = run_notebook("benchmarks", **options)
    assert done.returncode == 0, done.stderr[-2000:]
    text = printed(project / "out.ipynb")
    assert (
        "interval reaches it" in text
        and "epoch and threshold of the test fold" in text
        and "gated attention 0.900" in text
    )
    finished = list(project.glob("papermill_runs/benchmarks-10-fold/*/metrics.json"))
    assert "random forest (yardstick)" in text
    assert len(finished) == 3 * 2 + 2 + 2, "three models, one more repetition of the named one, and the other protocol"
    before = {path: path.stat().st_mtime_ns for path in finished}
    assert run_notebook("benchmarks", **options).returncode == 0
    assert before == {path: path.stat().st_mtime_ns for path in finished}, "finished runs are not run again"


def test_selector_benchmark(run_notebook, project):
    done = run_notebook("selector_benchmark", seeds=1, n_folds=2, epochs=2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "ratio of the means" in printed(project / "out.ipynb")
    assert len(list(project.glob("papermill_runs/benchmarks/*/metrics.json"))) == 2 * 2


@pytest.mark.slow  # the chapter studies/conformance tries its functions
def test_conformance(run_notebook, project):
    done = run_notebook("conformance", seeds=1, n_bags=40, epochs=2, n_workers=1)
    assert done.returncode == 0, done.stderr[-2000:]
    text = printed(project / "out.ipynb")
    assert "concept_presence" in text and "an instance taken out" in text and "all as expected" in text


@pytest.mark.slow  # the chapters studies/judge and settings_study try its functions
def test_settings_study(run_notebook, project):
    done = run_notebook(
        "settings_study",
        cohorts="musk1",
        models="gated_abmil",
        seeds=1,
        n_folds=3,
        epochs=2,
        settings="defaults: ; five: members=5, dropout=0.5",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    text = printed(project / "out.ipynb")
    assert "kept worse than a constant" in text and "resolves" in text and "five" in text


@pytest.mark.slow  # minutes: the chapters studies/stability and stability_results try its functions
def test_stability_study(run_notebook, project):
    options = {"cohorts": "digits", "main_seeds": 1, "main_folds": 1, "other_folds": 1, "n_folds": 2, "epochs": 2}
    done = run_notebook("stability_study", **options)
    assert done.returncode == 0, done.stderr[-2000:]
    text = printed(project / "out.ipynb")
    assert "soft_selection" in text and "pooled test AUROC" in text and "w_max" in text
    finished = list(project.glob("papermill_runs/stability/*/metrics.json"))
    assert len(finished) == 3 + 24
    presets = {json.loads((path.parent / "params.json").read_text())["preset"] for path in finished}
    assert presets == {"recommended", "seed_start", "seed_fix"}, "finished runs of before are found by their parameters"
    hard_row = next(line for line in text.splitlines() if line.startswith("hard_selection "))
    assert hard_row.rstrip().endswith("no"), "a hard selection sends its scorer no gradient"


def test_misspelt_parameter_is_refused(run_notebook, project):
    done = run_notebook("selector_benchmark", seed=1)
    assert done.returncode != 0
    assert "there is no parameter 'seed'; did you mean seeds?" in done.stderr.strip().splitlines()[-1]
