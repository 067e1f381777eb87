from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from model import convert
from model.classes import CLASSES
from model.network import FCN
from model.predictor import open_predictor
from model.state_dict import list_tensors, network_from_weights
from model.weights import SHIPPED_WEIGHTS, Metadata, read_weights, write_weights
from tests.model.test_engines import reference_logits


def test_a_converted_notebook_network_predicts_as_before(notebook_network, photo, tmp_path, capsys):
    torch.save(notebook_network.state_dict(), tmp_path / "notebook.pth")
    output = tmp_path / "w.safetensors"
    convert.main([str(tmp_path / "notebook.pth"), "--output", str(output)])
    weights = read_weights(output)
    assert weights.metadata.digest in capsys.readouterr().out
    assert weights.metadata.classes == CLASSES
    assert np.array_equal(
        weights.tensors["backbone.layer1.0.conv1.weight"],
        notebook_network.state_dict()["4.0.conv1.weight"].numpy(),
    )
    canvas = np.ascontiguousarray(photo[:288, :448])
    mask = open_predictor(output)(canvas)
    expected = reference_logits(notebook_network, canvas).argmax(dim=0).numpy()
    assert np.mean(mask == expected) >= 0.9999


def test_few_pixels_differ_where_the_service_pads_an_image(photo):
    """The documentation gives the share for such crops, with the shipped weights."""
    weights = read_weights(SHIPPED_WEIGHTS)
    crop = np.ascontiguousarray(photo[:97, :193])
    logits = reference_logits(network_from_weights(weights), crop)[:, :97, :193]
    differing = open_predictor(SHIPPED_WEIGHTS)(crop) != logits.argmax(dim=0).numpy()
    assert 0.005 <= differing.mean() <= 0.05


def test_safetensors_convert_too(notebook_network, tmp_path):
    source, output = tmp_path / "notebook.safetensors", tmp_path / "w.safetensors"
    state = {name: tensor.contiguous() for name, tensor in notebook_network.state_dict().items()}
    safetensors.torch.save_file(state, source)
    convert.main(["--weights", str(source), "--output", str(output)])
    assert read_weights(output).metadata.recipe == {
        "name": "converted",
        "source": "notebook.safetensors",
    }


def test_a_weights_file_keeps_its_metadata(tmp_path):
    metadata = Metadata(
        classes=("background", "ship"),
        palette=((0, 0, 0), (9, 8, 7)),
        mean=(0.5, 0.5, 0.5),
        recipe={"name": "own"},
        data={"image_set": "train", "masks": {"values": [0, 255], "void": [1, 2, 3]}},
        scores={"mean_iou": 0.5, "iou": {"background": 0.6, "ship": 0.4}},
        architecture="fcn16s_resnet18",
    )
    source, output = tmp_path / "own.weights", tmp_path / "half.safetensors"
    written = write_weights(source, list_tensors(FCN(2, "fcn16s")), metadata)
    convert.main([str(source), "--output", str(output), "--half"])
    found = read_weights(output).metadata
    assert found.digest != written.digest
    assert replace(found, digest="") == replace(written, digest="")
    assert output.stat().st_size < 0.6 * source.stat().st_size
    convert.main([str(source), "--output", str(output)])
    assert output.read_bytes() == source.read_bytes()

    (tmp_path / "classes.txt").write_text("background\nboat\n")
    options = ["--output", str(output), "--classes", str(tmp_path / "classes.txt")]
    convert.main([str(source), *options])
    renamed = read_weights(output).metadata
    assert renamed.classes == ("background", "boat")
    assert renamed.scores == {}, "they were of other names"
    assert renamed.data == {"image_set": "train"}, "its masks have plain values"


def test_other_classes_need_their_names(tmp_path):
    torch.save(FCN(num_classes=3).state_dict(), tmp_path / "net.pth")
    arguments = [str(tmp_path / "net.pth"), "--output", str(tmp_path / "w.safetensors")]
    with pytest.raises(SystemExit, match=r"3 classes, 21 are named.*--classes"):
        convert.main(arguments)
    (tmp_path / "names.txt").write_text("background\na\nb\n")
    convert.main([*arguments, "--classes", str(tmp_path / "names.txt")])
    assert read_weights(tmp_path / "w.safetensors").metadata.classes == ("background", "a", "b")
    (tmp_path / "classes.json").write_text('["x", "y", {"name": "z", "colour": [1, 2, 3]}]')
    convert.main([*arguments, "--classes", str(tmp_path / "classes.json")])
    metadata = read_weights(tmp_path / "w.safetensors").metadata
    assert (metadata.classes, metadata.palette[2]) == (("x", "y", "z"), (1, 2, 3))


def test_wrong_input_ends_with_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*no such file"):
        convert.main([str(tmp_path / "x.pth"), "--output", str(tmp_path / "w")])
    (tmp_path / "x.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(SystemExit, match=r"error: .*not a safetensors file"):
        convert.main([str(tmp_path / "x.safetensors"), "--output", str(tmp_path / "w")])
    with pytest.raises(SystemExit, match="give the path of a state dict"):
        convert.main(["--output", str(tmp_path / "w")])


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_are_refused(tmp_path, value):
    state = FCN().state_dict()
    state["final_conv.bias"][3] = value
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(SystemExit, match=r"error: .*final_conv\.bias: expected finite numbers"):
        convert.main([str(tmp_path / "net.pth"), "--output", str(tmp_path / "w.safetensors")])
    assert not (tmp_path / "w.safetensors").exists()
