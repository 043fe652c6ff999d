"""A checkpoint of another group's model gives the same outputs here."""

import pandas as pd
import pytest
import torch
from published_models import SLICES_NAMES, STAINS_NAMES, SlicesModel, StainsModel
from safetensors.torch import save_file

from mil_workbench.data.bags import Bag, pack, stain_levels
from mil_workbench.files import InputError
from mil_workbench.models.build import build_model
from mil_workbench.models.initial_weights import fill_model, read_names, read_state_dict
from mil_workbench.training.checkpoints import load_checkpoint, save_checkpoint

STAINS = {"levels": ("section", "stain", "case"), "hidden_features": 512, "attention_features": 128, "gated": False}
SLICES = {
    "projection": False,
    "context": "gated",
    "scorer_layers": 2,
    "selector_scores": "sigmoid",
    "attention_features": 128,
    "classifier_layers": 2,
    "classifier_features": 256,
    "dropout": 0.5,
}


def filled(folder, theirs, names: str, model, ending: str):
    "Return `model` with the weights of `theirs`, by way of a file."
    path = folder / f"weights{ending}"
    if ending == ".safetensors":
        save_file(theirs.state_dict(), path)
    else:
        torch.save({"epoch": 7, "model_state_dict": theirs.state_dict()}, path)
    (folder / "names.csv").write_text(names)
    fitted = fill_model(model, read_state_dict(path), names=read_names(folder / "names.csv"))
    assert len(fitted) == len(read_names(folder / "names.csv")) + names.count("*,")
    return model.eval()


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_stains_and_sections(tmp_path, ending):
    torch.manual_seed(0)
    theirs = StainsModel(in_features=40).eval()
    ours = filled(
        tmp_path,
        theirs,
        names=STAINS_NAMES,
        model=build_model("hierarchical_attention", 40, 2, **STAINS),
        ending=ending,
    )
    cases = [
        {"h&e": [torch.randn(7, 40), torch.randn(1, 40)], "melan": [torch.randn(3, 40)]},
        {"sox10": [torch.randn(1, 40)]},
        {
            "h&e": [torch.randn(300, 40)],
            "melan": [torch.randn(2, 40), torch.randn(5, 40)],
            "sox10": [torch.randn(4, 40)],
        },
    ]
    bags = []
    for i, case in enumerate(cases):
        sections = [(stain, str(k), part) for stain, parts in case.items() for k, part in enumerate(parts)]
        levels = stain_levels([(stain, name, len(part)) for stain, name, part in sections])
        bags.append(
            Bag(
                f"c{i}",
                patient_id=f"p{i}",
                label=0,
                instances=torch.cat([part for *_, part in sections]),
                levels=levels,
            )
        )
    with torch.no_grad():
        together = ours(pack(bags))
        for i, (bag, case) in enumerate(zip(bags, cases)):
            logits, weights = theirs(case)
            torch.testing.assert_close(together.logits[i], logits, rtol=0, atol=1e-5)
            alone = ours(pack([bag]))
            for level, expected in weights.items():
                torch.testing.assert_close(alone.attention[level], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("temperature", [10.0, 1.0, 0.1])
def test_slices(tmp_path, temperature):
    torch.manual_seed(1)
    theirs = SlicesModel().eval()
    ours = filled(
        tmp_path, theirs, names=SLICES_NAMES, model=build_model("dual_stream", 512, 2, **SLICES), ending=".pt"
    )
    ours.begin_epoch(temperature=temperature, is_hard=False)
    save_checkpoint(tmp_path / "ours.safetensors", ours)
    ours, _ = load_checkpoint(tmp_path / "ours.safetensors")
    features = [torch.randn(n, 512) for n in (64, 1, 17)]  # negative ones too: nothing may cut them off
    bags = [Bag(f"c{i}", patient_id=f"p{i}", label=0, instances=each) for i, each in enumerate(features)]
    with torch.no_grad():
        output = ours(pack(bags))
        for i, (slices, start, stop) in enumerate(zip(features, (0, 64, 65), (64, 65, 82))):
            logits, selection, attention = theirs(slices, temperature)
            torch.testing.assert_close(output.logits[i], logits, rtol=0, atol=1e-5)
            torch.testing.assert_close(output.selection[start:stop, 0], selection, rtol=0, atol=1e-5)
            torch.testing.assert_close(output.instance_attention[start:stop], attention, rtol=0, atol=1e-5)


def test_other_sizes_are_refused(tmp_path):
    model = build_model("hierarchical_attention", 40, 2, **STAINS | {"hidden_features": 128})
    with pytest.raises(InputError, match="give the model the sizes of theirs"):
        filled(tmp_path, StainsModel(in_features=40), names=STAINS_NAMES, model=model, ending=".pt")


def test_a_run_begins_with_their_weights(run_notebook, tmp_path):
    torch.manual_seed(0)
    theirs = SlicesModel(features=166)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    (tmp_path / "names.csv").write_text(SLICES_NAMES)
    options = SLICES | {"cohort": "musk1", "model": "dual_stream", "epochs": 1, "n_folds": 5, "device": "cpu"}
    done = run_notebook(**options, init="theirs.pt", init_names="names.csv", run_name="scaled")
    assert done.returncode != 0 and "add feature_scaling none" in done.stderr
    done = run_notebook(
        **options, init="theirs.pt", init_names="names.csv", run_name="begun", feature_scaling="none", lr=1e-12
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "begins with the weights in" in (tmp_path / "out.ipynb").read_text()
    model, _ = load_checkpoint(tmp_path / "papermill_runs/first/begun/checkpoints/best.safetensors")
    torch.testing.assert_close(model.classifier[3].weight, theirs.head[3].weight, rtol=0, atol=1e-6)
    assert len(pd.read_csv(tmp_path / "papermill_runs/first/begun/predictions.csv"))
