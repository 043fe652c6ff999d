"""Golden runs: recorded before the code is rearranged and compared afterwards, every number to the bit.

python -m tests.golden record FOLDER        # with the code before
python -m tests.golden compare FOLDER OTHER
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
TIMES = ["seconds", "time", "duration"]
COMMON = {"device": "cpu", "study": "golden"}
DIGITS = {"cohort": "digits", "epochs": 4, "warmup_epochs": 1, "bag_size": 16, "dropout": 0.5}
PHANTOM = {"cohort": "mri-phantom-small", "epochs": 4, "n_folds": 3}
TRAININGS = {
    "digits_soft": DIGITS,
    "digits_hard": DIGITS | {"preset": "seed_start"},
    "digits_fix": DIGITS | {"preset": "seed_fix", "amp": False},
    "digits_two_phase": DIGITS | {"two_phase_epoch": 2},
    "musk1": {"cohort": "musk1", "model": "gated_abmil", "epochs": 8},
    "musk1_members": {"cohort": "musk1", "model": "clam_sb", "members": 2, "epochs": 4, "ema": 0.9, "monitor": "auroc"},
    "ucsb_breast": {"cohort": "ucsb-breast", "epochs": 4, "accumulate": 2, "class_weights": "balanced"},
    "stains": {"cohort": "stain-phantom-small", "model": "hierarchical_attention", "epochs": 4, "n_folds": 3},
    "phantom": PHANTOM | {"entropy_weight": 0.01, "confidence_weight": 0.01, "feature_dropout": 0.1},
    "phantom_encoder": PHANTOM
    | {"train_encoder": True, "encoder_weights": "none", "slice_size": 32, "bag_size": 8, "epochs": 2, "augment": True},
    "phantom_volumes": PHANTOM | {"model": "volume3d", "slice_size": 32, "epochs": 1},
}
EVALUATIONS = {
    "evaluate_phantom": {"run": "papermill_runs/golden/phantom"},
    "evaluate_stains": {"run": "papermill_runs/golden/stains"},
    "evaluate_members": {"run": "papermill_runs/golden/musk1_members", "cases": "validation"},
}


def command(folder: Path, notebook: str, parameters: dict) -> list[str]:
    given = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    executed = folder / f"{parameters['run_name']}.ipynb"
    return [
        sys.executable,
        "-m",
        "papermill",
        f"{ROOT}/nbs/runs/{notebook}.ipynb",
        str(executed),
        "--cwd",
        str(folder),
        "--log-output",
        *given,
    ]


def run(folder: Path, notebook: str, parameters: dict) -> None:
    print(parameters["run_name"], flush=True)
    done = subprocess.run(command(folder, notebook, parameters), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])


def run_and_kill(folder: Path, parameters: dict) -> None:
    "Train, kill the run in its third epoch, and take it up again."
    process = subprocess.Popen(
        command(folder, "train", parameters),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    history = folder / "papermill_runs" / "golden" / parameters["run_name"] / "history.csv"
    while not (history.exists() and len(history.read_text().splitlines()) > 2):
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run(folder, "train", parameters)


def record(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, parameters in TRAININGS.items():
        run(folder, "train", COMMON | parameters | {"run_name": name})
    run_and_kill(folder, COMMON | DIGITS | {"epochs": 12, "run_name": "digits_killed"})
    for name, parameters in EVALUATIONS.items():
        run(folder, "evaluate", {"study": "golden", "device": "cpu", "run_name": name} | parameters)
    run(
        folder,
        "tune",
        {
            "study": "golden-tuning",
            "trials": 4,
            "base": "cohort=musk1 model=gated_abmil epochs=6 device=cpu",
            "run_name": "tune",
        },
    )
    run(folder, "crossval_report", {"study": "golden", "run_name": "report"})


def numbers(path: Path):
    "Return what a file of a run says, without the times."
    if path.suffix == ".json":
        return {name: value for name, value in json.loads(path.read_text()).items() if name not in TIMES}
    if path.suffix == ".csv":
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        return table[[column for column in table if not any(time in column for time in TIMES)]].to_dict("list")
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.update({name: item[()].tobytes()}) if isinstance(item, h5py.Dataset) else None
        )
    return found


def compare(before: Path, after: Path) -> None:
    n_equal, names = (
        0,
        (
            "metrics.json",
            "predictions.csv",
            "history.csv",
            "attention.h5",
            "folds.json",
            "model.json",
            "trials.csv",
            "best.json",
        ),
    )
    for path in sorted(path for name in names for path in before.rglob(name)):
        other = after / path.relative_to(before)
        if not other.exists():
            print(f"missing: {other}")
        elif numbers(path) != numbers(other):
            print(f"differs: {path.relative_to(before)}")
        else:
            n_equal += 1
    print(f"{n_equal} files agree to the bit")


if __name__ == "__main__":
    {"record": record, "compare": compare}[sys.argv[1]](*(Path(text).resolve() for text in sys.argv[2:]))
