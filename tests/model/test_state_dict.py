import pytest
import torch

from model.errors import NetworkError
from model.state_dict import convert_notebook_state, network_from_state, read_state_dict


def test_the_notebooks_state_dict_converts_and_predicts_the_same(notebook_network):
    images = torch.randn(2, 3, 96, 128)
    for prefix in ("", "module.", "_orig_mod."):
        state = {prefix + name: t for name, t in notebook_network.state_dict().items()}
        network = network_from_state(convert_notebook_state(state), source="test")
        with torch.no_grad():
            assert torch.equal(network(images), notebook_network(images))


def test_a_wrong_state_dict_is_refused_with_every_difference(notebook_network):
    state = convert_notebook_state(notebook_network.state_dict())
    del state["backbone.bn1.weight"]
    state["extra"] = torch.zeros(1)
    state["final_conv.bias"] = torch.zeros(7)
    with pytest.raises(NetworkError) as caught:
        network_from_state(state, source="some.pth")
    message = str(caught.value)
    for part in (
        "some.pth",
        "backbone.bn1.weight is missing",
        "extra is unknown",
        "final_conv.bias has shape (7,), expected (21,)",
    ):
        assert part in message


def test_a_pickled_module_is_not_loaded(notebook_network, tmp_path):
    torch.save(notebook_network, tmp_path / "module.pth")
    with pytest.raises(NetworkError, match=r"net\.state_dict\(\)"):
        read_state_dict(tmp_path / "module.pth")
    with pytest.raises(NetworkError, match="no such file"):
        read_state_dict(tmp_path / "nothing.pth")
