import numpy as np
import pytest

from model import soup
from model.network import FCN
from model.predictor import open_predictor
from model.state_dict import list_tensors
from model.weights import Metadata, read_weights, write_weights


def write_network(path, *, architecture="fcn32s", classes=("background", "ship"), scale=1.0):
    network = FCN(len(classes), architecture)
    network.final_conv.weight.data.fill_(scale)
    metadata = Metadata(
        classes=classes,
        architecture=network.architecture.identifier,
        recipe={"name": "own"},
        data={"start": f"{scale}", "masks": {"void": [1, 2, 3]}},
        scores={"mean_iou": 0.5},
    )
    write_weights(path, list_tensors(network), metadata)
    return path


def test_the_average_lies_between_its_parts_and_can_be_served(tmp_path, photo, capsys):
    parts = [write_network(tmp_path / f"{scale}", scale=scale) for scale in (1.0, 2.0, 6.0)]
    output = tmp_path / "average.safetensors"
    soup.main([*map(str, parts), "--output", str(output)])
    weights = read_weights(output)
    assert weights.metadata.digest in capsys.readouterr().out
    assert np.all(weights.tensors["final_conv.weight"] == 3)
    kernels = [read_weights(part).tensors["backbone.conv1.weight"] for part in parts]
    assert np.allclose(weights.tensors["backbone.conv1.weight"], np.mean(kernels, axis=0))
    assert weights.metadata.scores == {}, "the average has not been measured"
    digests = [read_weights(part).metadata.digest for part in parts]
    assert weights.metadata.data == {
        "masks": {"void": [1, 2, 3]},
        "start": f"the average of {digests[0]} and {digests[1]} and {digests[2]}",
    }
    assert open_predictor(output, device="cpu")(photo[:64, :64]).shape == (64, 64)


def test_a_finer_network_adds_what_the_coarser_one_has(tmp_path):
    coarse = write_network(tmp_path / "coarse", scale=1.0)
    fine = write_network(tmp_path / "fine", architecture="fcn8s", scale=2.0)
    output = tmp_path / "average"
    soup.main([str(coarse), str(fine), "--half", "--output", str(output)])
    tensors, first = read_weights(output).tensors, read_weights(coarse).tensors
    assert tensors.keys() == first.keys()
    assert np.all(tensors["final_conv.weight"] == 1.5)
    assert np.allclose(tensors["transpose_conv.weight"], first["transpose_conv.weight"], atol=1e-3)


def test_other_classes_cannot_be_averaged(tmp_path):
    one = write_network(tmp_path / "one")
    other = write_network(tmp_path / "other", classes=("background", "boat"))
    with pytest.raises(SystemExit, match=r"error: \S*other has other classes than \S*one"):
        soup.main([str(one), str(other), "--output", str(tmp_path / "average")])
