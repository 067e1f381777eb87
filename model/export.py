"""Export a weights file to ONNX: images in, masks out, for any runtime that reads it.

Run as `python -m model.export FILE --output fcn.onnx`. The graph takes `images`, uint8 of shape
(batch, height, width, 3), RGB, both sides multiples of 32, and gives `masks`, uint8 of shape
(batch, height, width): normalisation, network and argmax are inside.
"""

if __name__ == "__main__":  # before the import that fails without it
    from model.extras import require_packages

    require_packages("onnx", extra="onnx")

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from model.engines.folding import Block, Convolution, FoldedNetwork, fold
from model.errors import ModelError
from model.outputs import require_writable
from model.weights import Metadata, read_weights, write_atomically

OPSET = 17
IR_VERSION = 10
"""ONNX's file format version of 2024, which all later runtimes read."""


class Graph:
    """Nodes and constants in the order in which they are added. Each has one output of its name."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add_node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def add_constant(self, values: NDArray[Any]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add_convolution(self, x: str, convolution: Convolution) -> str:
        kernel, bias = self.add_constant(convolution.kernel), self.add_constant(convolution.bias)
        padding = convolution.kernel.shape[-1] // 2
        return self.add_node(
            "Conv", x, kernel, bias, pads=[padding] * 4, strides=[convolution.stride] * 2
        )

    def add_upsampling(self, x: str, *values: NDArray[np.float32]) -> str:
        """Add a transposed convolution; `values` are its kernel and, optionally, its bias."""
        stride = values[0].shape[-1] // 2
        constants = [self.add_constant(array) for array in values]
        return self.add_node(
            "ConvTranspose", x, *constants, strides=[stride] * 2, pads=[stride // 2] * 4
        )

    def add_block(self, x: str, block: Block) -> str:
        inner = self.add_node("Relu", self.add_convolution(x, block.first))
        inner = self.add_convolution(inner, block.second)
        shortcut = self.add_convolution(x, block.shortcut) if block.shortcut else x
        return self.add_node("Relu", self.add_node("Add", inner, shortcut))


def build_model(network: FoldedNetwork, metadata: Metadata) -> Any:
    """Build the ONNX model. It has the metadata of the weights file, as JSON."""
    graph = Graph()
    x = graph.add_node("Cast", "images", to=TensorProto.FLOAT)
    x = graph.add_node("Transpose", x, perm=[0, 3, 1, 2])
    x = graph.add_node("Div", x, graph.add_constant(np.array(255, np.float32)))
    x = graph.add_node("Sub", x, graph.add_constant(_shape_per_channel(metadata.mean)))
    x = graph.add_node("Div", x, graph.add_constant(_shape_per_channel(metadata.std)))
    x = graph.add_node("Relu", graph.add_convolution(x, network.stem))
    x = graph.add_node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    outputs = []
    for block in network.blocks:
        outputs.append(x := graph.add_block(x, block))
    x = graph.add_convolution(x, network.classifier)
    for skip in network.skips:
        doubled = graph.add_upsampling(x, skip.doubling)
        x = graph.add_node(
            "Add", doubled, graph.add_convolution(outputs[skip.block], skip.classifier)
        )
    x = graph.add_upsampling(x, network.upsampling_kernel, network.upsampling_bias)
    x = graph.add_node("ArgMax", x, axis=1, keepdims=0)
    graph.nodes.append(helper.make_node("Cast", [x], ["masks"], to=TensorProto.UINT8))
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", "H", "W", 3])
    masks = helper.make_tensor_value_info("masks", TensorProto.UINT8, ["N", "H", "W"])
    model = helper.make_model(
        helper.make_graph(graph.nodes, metadata.architecture, [images], [masks], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="model.export",
    )
    said = {"classes": metadata.classes, "palette": metadata.palette, "weights": metadata.digest}
    helper.set_model_props(model, {name: json.dumps(value) for name, value in said.items()})
    return model


def _shape_per_channel(values: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(values, np.float32).reshape(1, 3, 1, 1)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m model.export", description=__doc__)
    parser.add_argument("weights", type=Path, help="weights file")
    parser.add_argument("--output", type=Path, required=True, help="ONNX file to write")
    options = parser.parse_args(arguments)
    try:
        require_writable(options.output)
        weights = read_weights(options.weights)
        model = build_model(fold(weights), weights.metadata)
    except ModelError as error:
        sys.exit(f"error: {error}")
    onnx.checker.check_model(model)
    with write_atomically(options.output) as file:
        file.write(model.SerializeToString(deterministic=True))
    print(f"wrote {options.output}, ONNX opset {OPSET}")


if __name__ == "__main__":
    main()
