import json
from argparse import Namespace

import torch

from model.classes import CLASSES
from model.training.recipe import PRESETS
from model.training.start import start_network
from model.weights import read_weights


def test_a_start_from_weights_keeps_their_head_and_takes_the_new_colours(weights_file, tmp_path):
    colours = [[index, 1, 2] for index in range(len(CLASSES))]
    entries = [
        {"name": name, "colour": colour} for name, colour in zip(CLASSES, colours, strict=True)
    ]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": entries, "void": [9, 9, 9]}))
    options = Namespace(init=weights_file, classes=tmp_path / "classes.json")
    network, _, metadata = start_network(options, PRESETS["default"], lambda *_: None)
    stored = read_weights(weights_file)
    head = torch.from_numpy(stored.tensors["final_conv.weight"])
    assert torch.equal(network.final_conv.weight, head)
    assert [list(colour) for colour in metadata.palette] == colours
    assert metadata.data["masks"]["void"] == [9, 9, 9]
    assert stored.metadata.digest in metadata.data["start"]

    network, _, kept = start_network(
        Namespace(init=weights_file, classes=None), PRESETS["default"], lambda *_: None
    )
    assert kept.palette == stored.metadata.palette
