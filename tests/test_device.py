"""What a GPU would show, without one: no model mixes devices, and none waits for the GPU in a training step."""

from dataclasses import replace

import pytest
import torch
from device_double import Stand, move, on_cpu, watched

from mil_workbench.data.bags import Bag, pack, stain_levels
from mil_workbench.models.build import MODELS, build_model
from mil_workbench.models.encoders import Encoder
from mil_workbench.models.engines import with_torch
from mil_workbench.record.rules import WITH_ATTENTION
from mil_workbench.training.losses import MILLoss

SECTIONS = stain_levels([("h&e", "1", 5), ("h&e", "2", 4), ("sox10", "1", 6)])
STAINS = {"levels": ("section", "stain", "case")}
CANDIDATES = [(name, {}) for name in MODELS if name not in ("dual_stream", "hierarchical_attention", "volume3d")]
CANDIDATES += [("hierarchical_attention", STAINS), ("gated_abmil", {"members": 2})]
CANDIDATES += [
    ("dual_stream", {"critical_selection_mode": mode}) for mode in ("soft", "hard", "straight_through", "top_k")
]


def a_batch(name: str):
    "Return a small batch that the model `name` takes."
    if name == "hierarchical_attention":
        return pack(
            [
                Bag(f"c{i}", patient_id=f"p{i}", label=i % 2, instances=torch.randn(15, 24), levels=SECTIONS)
                for i in range(3)
            ]
        )
    return pack(
        [Bag(f"c{i}", patient_id=f"p{i}", label=i % 2, instances=torch.randn(n, 24)) for i, n in enumerate((3, 50, 1))]
    )


def on_stand_in(batch):
    return replace(batch, instances=Stand(batch.instances), labels=Stand(batch.labels))


def a_loss(name: str) -> MILLoss:
    "Return the loss with every term that the model `name` can have."
    is_dual = name == "dual_stream"
    return MILLoss(
        label_smoothing=0.1,
        entropy_weight=0.01 if name in WITH_ATTENTION else 0.0,
        confidence_weight=0.01 if is_dual else 0.0,
        max_instance_weight=0.1 if is_dual else 0.0,
    )


@pytest.mark.parametrize(("name", "options"), CANDIDATES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_training_step_neither_mixes_devices_nor_waits(name, options):
    torch.manual_seed(0)
    model, batch, loss = build_model(name, 24, 2, dropout=0.0, **options), a_batch(name), a_loss(name)
    model.train()
    torch.manual_seed(1)  # straight_through draws random numbers
    expected = loss(model(batch), batch)["total"]
    expected.backward()
    gradients = {
        each: parameter.grad.clone() for each, parameter in model.named_parameters() if parameter.grad is not None
    }
    model.zero_grad()
    move(model)
    torch.manual_seed(1)
    with watched() as waits:
        total = loss(model(on_stand_in(batch)), on_stand_in(batch))["total"]
        total.backward()
    assert not waits
    torch.testing.assert_close(on_cpu(total.detach()), expected.detach())
    for each, parameter in model.named_parameters():
        if each in gradients:
            torch.testing.assert_close(on_cpu(parameter.grad), gradients[each], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "options"), CANDIDATES, ids=lambda value: value if isinstance(value, str) else "")
@torch.no_grad()
def test_inference_neither_mixes_devices_nor_waits(name, options):
    torch.manual_seed(0)
    model, batch = build_model(name, 24, 2, **options).eval(), a_batch(name)
    expected = model(batch)
    move(model)
    with watched() as waits:
        output = model(on_stand_in(batch))
    assert not waits
    torch.testing.assert_close(on_cpu(output.logits), expected.logits)


@torch.no_grad()
def test_an_encoder_stays_on_its_device():
    encoder = Encoder("resnet18", 3, weights="none", train=True).eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    expected = encoder(images)
    move(encoder)
    with watched() as waits:
        features = encoder(Stand(images))
    assert not waits
    torch.testing.assert_close(on_cpu(features), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_chunk_is_encoded_with_one_wait_for_its_features(monkeypatch):
    "The engine that GPUs use; they get their weights through `move`, since a module cannot be sent to the stand-in."
    encoder = Encoder("resnet18", 4, weights="none", train=False)
    images = torch.randint(0, 256, (3, 4, 32, 32), dtype=torch.uint8)
    expected = encoder(images)
    monkeypatch.setattr(Encoder, "to", lambda self, device, **options: move(self))
    engine = with_torch(encoder, device="meta")
    with watched() as waits:
        features = engine.encode(images)
    assert list(waits.values()) == [1] and next(iter(waits)).startswith("copy to the CPU at engines.py")
    assert engine.at_once == 2
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def test_the_stand_in_finds_what_it_is_for():
    values = torch.arange(3.0)
    with watched(), pytest.raises(RuntimeError, match="mixes devices"):
        Stand(values) + values
    with watched() as waits:
        assert (Stand(values) * 2).sum().item() == 6
    assert sum(waits.values()) == 1
