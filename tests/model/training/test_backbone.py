import pytest
import torch
from torchvision.models import resnet18

from model.errors import NetworkError
from model.network import FCN
from model.training.backbone import load_backbone


def test_an_incomplete_backbone_is_loaded_and_reported():
    full = resnet18().state_dict()
    partial = {name: t for name, t in full.items() if not name.startswith("layer4.1")}
    network = FCN()
    before = network.backbone.layer4[1].conv1.weight.clone()
    report = load_backbone(network, partial, source="partial.safetensors")
    assert torch.equal(network.backbone.conv1.weight, full["conv1.weight"])
    assert torch.equal(network.backbone.layer4[1].conv1.weight, before)
    assert "layer4.1.conv1.weight" in report.missing
    assert set(report.ignored) == {"fc.weight", "fc.bias"}
    assert len(report.loaded) + len(report.missing) == len(network.backbone.state_dict())
    assert "layer4.1.conv1.weight" in str(report)
    assert "fc.weight" in str(report)


def test_a_backbone_of_another_network_is_refused():
    with pytest.raises(NetworkError, match=r"conv1\.weight has shape \(1,\), ResNet-18 expects"):
        load_backbone(FCN(), {"conv1.weight": torch.zeros(1)}, source="x")
    with pytest.raises(NetworkError, match="no tensor with a ResNet-18 name"):
        load_backbone(FCN(), {"a": torch.zeros(1)}, source="x")
