"""Models from outside: trained, scored, opened and refused like built-in ones."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
import torchmil.models

from mil_workbench.data.bags import Bag, pack
from mil_workbench.files import InputError, checkout, read_json
from mil_workbench.models.build import MODELS, build_model
from mil_workbench.models.conforming import require_conforming
from mil_workbench.models.outside import TORCHMIL_OPTIONS
from mil_workbench.models.padded import neighbour_graph
from mil_workbench.record.parameters import read_parameters
from mil_workbench.record.rules import MODEL_NAMES

NEEDS_A_NETWORK = {"VAEABMIL"}  # its constructor wants an autoencoder that is built already
THEIRS = sorted(
    name
    for name, model in vars(torchmil.models).items()
    if isinstance(model, type)
    and issubclass(model, torch.nn.Module)
    and not name.startswith("MILModel")
    and name not in NEEDS_A_NETWORK
)
WIDTH = 12


@pytest.fixture
def bags():
    generator = torch.Generator().manual_seed(0)
    return [
        Bag(
            name,
            patient_id=name,
            label=label,
            instances=torch.randn(n, WIDTH, generator=generator),
            coords=torch.rand(n, 2, generator=generator) * 9,
        )
        for name, label, n in (("a", 1, 12), ("b", 0, 23))
    ]


def test_the_rules_know_every_model():
    assert set(MODEL_NAMES) == set(MODELS)
    assert len(THEIRS) == 17


@pytest.mark.parametrize("name", THEIRS)
def test_torchmils_own_outputs_on_the_same_weights(name, bags):
    torch.manual_seed(0)
    ours = build_model(f"torchmil:{name}", WIDTH, 2).eval()
    require_conforming(ours, bags, n_classes=2, name=name)
    theirs = getattr(torchmil.models, name)(in_shape=(WIDTH,), **TORCHMIL_OPTIONS.get(name, {})).eval()
    theirs.load_state_dict(ours.network.state_dict())
    asks_for = theirs.forward.__code__.co_varnames[: theirs.forward.__code__.co_argcount]
    for i, bag in enumerate(bags):
        beside = {
            "adj": neighbour_graph(bag.coords)[None],
            "coords": bag.coords[None],
            "mask": torch.ones(1, len(bag), dtype=torch.bool),
        }
        torch.manual_seed(0)  # some draw in evaluation too
        with torch.no_grad():
            expected = theirs(bag.instances[None], **{key: value for key, value in beside.items() if key in asks_for})
            logits = ours(pack(bags)).logits[i]
        assert abs(float(logits[1] - logits[0]) - float(expected)) < 1e-5
    ours.train()(pack(bags)).logits.sum().backward()  # trains


STUDENTS = """
import random
import threading

import numpy as np
import torch
from torch import nn
from mil_workbench.models.layers import MILOutput
from mil_workbench.models.segments import segment_mean, segment_softmax

class Small(nn.Module):
    def __init__(self, in_features, n_classes, width=4, dropout=0.0):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(in_features, width), nn.ReLU(), nn.Dropout(dropout))
        self.classifier = nn.Linear(width, n_classes)
    def forward(self, batch):
        embedded = self.embed(batch.read(0, int(batch.bag_offsets[-1])))
        return MILOutput(self.classifier(segment_mean(embedded, batch.bag_offsets)))

class Mixing(Small):
    def forward(self, batch):
        output = super().forward(batch)
        return MILOutput(output.logits - output.logits.mean(0))

class NotANumber(Small):
    def forward(self, batch):
        return MILOutput(super().forward(batch).logits * float("nan"))

class Transposed(Small):
    def forward(self, batch):
        return MILOutput(super().forward(batch).logits.T)

class Tied(Small):
    def __init__(self, in_features, n_classes):
        super().__init__(in_features, n_classes)
        self.other = nn.Linear(4, n_classes)
        self.other.weight = self.classifier.weight

class NumpyNoise(Small):
    def forward(self, batch):
        output = super().forward(batch)
        noise = torch.from_numpy(np.random.normal(size=output.logits.shape)).float() + random.random()
        return MILOutput(output.logits * (1 + noise)) if self.training else output

class Locked(Small):
    def __init__(self, in_features, n_classes):
        super().__init__(in_features, n_classes)
        self.lock = threading.Lock()

class Shaped(Small):
    def __init__(self, in_features, n_classes, widths=(3, 4)):
        super().__init__(in_features, n_classes, widths[0])
"""
QUICK = {"cohort": "ucsb-breast", "epochs": 2, "device": "cpu", "study": "outside"}


@pytest.fixture
def train(tmp_path, monkeypatch):
    from mil_workbench.workflows.run_many import run_many

    (tmp_path / "settings.ini").write_text("")  # what makes a folder the project
    (tmp_path / "students.py").write_text(STUDENTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    defaults = {
        name: parameter.default for name, parameter in read_parameters(checkout() / "nbs/runs/train.ipynb").items()
    }
    return lambda **values: run_many([QUICK | values], defaults, n_workers=1)[0].path


@pytest.mark.parametrize(
    "values",
    [
        {"model": "students:Small", "model_options": "width=6", "dropout": 0.5},
        {"model": "torchmil:ABMIL", "model_options": "gated=True; att_dim=8"},
        {"model": "students:Small", "members": 2},
    ],
)
def test_a_model_from_outside_leaves_a_whole_record(train, values):
    from mil_workbench.workflows.finished import open_run

    run = train(**values)
    metrics = read_json(run / "metrics.json")
    assert 0 <= metrics["test"]["auroc"] <= 1 and set(metrics["yardsticks"]) == {
        "constant",
        "logistic regression",
        "random forest",
    }
    assert len(pd.read_csv(run / "history.csv")) == 2
    opened = open_run(run)
    model, bag = opened.model, opened.cohort.bags[0]
    described = json.loads((run / "model.json").read_text())["description"]
    assert described["name"] == values["model"] and described.get("members", 1) == values.get("members", 1)
    if values["model"] == "students:Small" and "members" not in values:
        assert (described["width"], described["dropout"]) == (6, 0.5) and model.embed[0].out_features == 6
    assert model(pack([bag])).logits.shape == (1, 2)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"model": "students:Mixing"}, "a bag must not change with its neighbours"),
        ({"model": "students:NotANumber"}, "its logits: not all are finite"),
        ({"model": "students:Transposed"}, r"its logits: shape \(2, 3\), but 3 bags of 2 classes need \(3, 2\)"),
        ({"model": "students:Missing"}, "students has no Missing; its models are Small, Mixing,"),
        ({"model": "students.Small"}, "did you mean students:Small"),
        ({"model": "students:Small", "model_options": "depth=3"}, "has no option 'depth'; it takes width, dropout"),
        (
            {"model": "students:Small", "attention_layers": 2},
            "attention_layers 2 has no effect on model students:Small",
        ),
        (
            {"model": "students:Small", "critical_selection_mode": "hard"},
            "critical_selection_mode hard has no effect on model students:Small",
        ),
        ({"model": "torchmil:VAEABMIL"}, "cannot be built"),
        ({"model": "transmil"}, "model must be one of"),
        ({"model": "dual_straem"}, "did you mean dual_stream"),
        ({"model": "gated_abmil", "model_options": "a=1"}, "model_options a=1 has no effect on model gated_abmil"),
        (
            {"model": "students:Small", "model_options": "dropout=0.4", "dropout": 0.1},
            "dropout is given twice: 0.1, and 0.4 in model_options",
        ),
        ({"model": "students:Small", "model_options": "in_features=3"}, "in_features follows from the cohort"),
        (
            {"model": "students:Small", "feature_scaling": "standard"},
            "feature_scaling standard has no effect on model students:Small",
        ),
        ({"model": "students:Locked", "ema": 0.9}, "ema wants a copy of the model, and it cannot be copied"),
    ],
)
def test_what_is_wrong_is_named_before_training(train, values, message):
    with pytest.raises(InputError, match=message):
        train(**values)
    assert not list(Path("papermill_runs").rglob("history.csv"))


def test_parts_that_a_published_loss_does_not_reach_are_named_and_the_rest_is_trained(train, capsys):
    from mil_workbench.workflows.run_many import run_once

    defaults = {
        name: parameter.default for name, parameter in read_parameters(checkout() / "nbs/runs/train.ipynb").items()
    }
    run = run_once(defaults | QUICK | {"model": "torchmil:TransMIL", "epochs": 1}, defaults)
    assert (run / "metrics.json").exists()
    assert "note: no gradient reaches network." in capsys.readouterr().out


def test_options_and_defaults_reach_the_class(train):
    described = lambda run: read_json(run / "model.json")["description"]
    assert described(train(model="students:Small"))["dropout"] == 0.25, "the run's own default, which params.json names"
    run = train(model="students:Shaped", model_options="widths=(5, 6)")
    assert described(run)["widths"] == [5, 6] and (run / "metrics.json").exists()


def test_tied_weights_are_kept_tied(train):
    from mil_workbench.training.checkpoints import load_checkpoint

    run = train(model="students:Tied")
    model, _ = load_checkpoint(run / "checkpoints/best.safetensors")
    assert model.other.weight is model.classifier.weight


def test_random_numbers_of_numpy_and_python_are_seeded(train):
    tables = [
        pd.read_csv(train(model="students:NumpyNoise", run_name=name) / "history.csv").drop(columns="seconds")
        for name in ("one", "two")
    ]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_a_missing_module_is_named_with_its_remedy(train, monkeypatch):
    import sys

    from mil_workbench.training.checkpoints import load_checkpoint

    run = train(model="students:Small", run_name="gone")
    Path("students.py").unlink()
    monkeypatch.delitem(sys.modules, "students")
    with pytest.raises(InputError, match="put the module back where it was"):
        load_checkpoint(run / "checkpoints/best.safetensors")


def test_an_error_in_another_process_is_one_line(train):
    with pytest.raises(InputError, match="^no gradient reaches selector.scorer") as refusal:
        train(cohort="musk1", critical_selection_mode="hard", n_processes=2)
    assert "\n" not in str(refusal.value)
