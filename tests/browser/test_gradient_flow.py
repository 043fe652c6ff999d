"""The explore notebook on gradient flow: a bug is chosen by mouse, and the page names what the audit names."""

import re
import shutil
from pathlib import Path

import torch
from playwright.sync_api import expect

from mil_workbench.data.bags import pack
from mil_workbench.data.sampling import BagBatchSampler
from mil_workbench.models.build import build_model
from mil_workbench.studies.bench_trainings import N_TRAIN, SETTINGS, bench_bags
from mil_workbench.studies.planted_bugs import BUGS
from mil_workbench.training.gradient_flow import audit_gradient_flow
from mil_workbench.training.losses import MILLoss
from mil_workbench.training.settings import make_optimizer

EXPLORE = Path(__file__).resolve().parents[2] / "nbs" / "explore"


def audit_with(model: str, bug: str):
    "The audit of the bench's first batch, made here."
    bags = bench_bags(model)[:N_TRAIN]
    torch.manual_seed(SETTINGS.seed)
    network = build_model(
        model, 64, 2, **({"levels": ["section", "stain", "case"]} if model == "hierarchical_attention" else {})
    )
    optimizer = make_optimizer(network, SETTINGS)
    first = BagBatchSampler(
        [len(bag) for bag in bags], SETTINGS.batch_size, shuffle=True, seed=SETTINGS.seed
    ).batches()[0]
    with BUGS[bug].plant(network, optimizer):
        return audit_gradient_flow(
            network, pack([bags[i] for i in first]), MILLoss(label_smoothing=0.1), optimizer=optimizer
        )


def shown_table(page) -> dict[str, tuple[str, str]]:
    "Module: gradient norm and verdict with the bug, as the page has them."
    rows = page.locator(".mil-bench tbody tr")
    return {
        cells[0]: (cells[3], cells[4])
        for cells in (rows.nth(i).locator("td").all_inner_texts() for i in range(rows.count()))
    }


def require_same(page, model: str, bug: str) -> None:
    audit = audit_with(model, bug)
    assert shown_table(page) == {
        module: (f"{norm:.3g}", verdict)
        for module, norm, verdict in zip(audit.module, audit.gradient_norm, audit.verdict)
    }
    starved = audit.module[audit.verdict.isin(["no gradient", "frozen"])]
    named = re.search(
        r"Exactly no gradient in any epoch: (.*?)\. (?:A gradient|Validation)",
        page.locator(".mil-bench p").first.inner_text(),
    )
    assert set(named[1].split(", ") if named else []) == set(starved)


def test_a_bug_is_planted_and_named(lab, page):
    shutil.copy(EXPLORE / "gradient_flow.ipynb", lab.root / "gradient_flow.ipynb")
    lab.open(page, "gradient_flow.ipynb")
    lab.run_all(page)
    expect(page.locator(".mil-bench img")).to_be_visible()
    require_same(page, "dual_stream", "hard selection")
    assert page.locator(".mil-bench img").evaluate("image => image.naturalWidth") > 500

    train, model, bug = (
        page.get_by_role("button", name="train", exact=True),
        page.get_by_label("model", exact=True),
        page.get_by_label("bug", exact=True),
    )
    bug.select_option("learning rate 0")
    expect(page.get_by_text("with a learning rate of 0; a slip that is easy to make")).to_be_visible()
    train.click()
    expect(train).to_be_disabled()
    expect(train).to_be_enabled()
    expect(page.locator(".mil-bench p").first).to_contain_text("weights that never moved: selector.scorer, query.0.")
    require_same(page, "dual_stream", "learning rate 0")

    model.select_option("hierarchical attention: digits in sections and stains")
    expect(bug.locator("option", has_text="hard selection")).to_have_count(0)
    expect(bug).to_have_value("detached sections")
    train.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".mil-bench tbody")).to_contain_text("attention.section.project")
    expect(train).to_be_enabled()
    require_same(page, "hierarchical_attention", "detached sections")
    expect(page.locator(".mil-bench")).to_contain_text(
        "A run would have stopped before its first epoch: "
        "no gradient reaches embedding.linear, attention.section.project"
    )
