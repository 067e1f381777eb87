"""The documentation's examples for your own data and classes work."""

import os
import re
import shlex
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from app.settings import Settings
from model import soft_labels
from model.training.pairs import list_images
from model.training.photos import read_photo
from model.training.soft_labels import label_images
from tests.app.conftest import serving
from tests.conftest import REPOSITORY

TRAINING = (REPOSITORY / "docs" / "training.md").read_text()


def test_a_first_run_with_classes_of_ones_own(tmp_path):
    """Draw, train, measure and serve with the commands of the documentation."""
    section = TRAINING.split("### A first run with your own classes\n")[1]
    bash = re.search(r"```bash\n(.*?)```", section, re.S)[1].replace("\\\n", "")
    *commands, serve = bash.strip().splitlines()
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "python"
        output = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert output.returncode == 0, output.stderr
    assert re.search(r"coin +[\d.]+\n", output.stdout), "measured by its own names"
    assert serve == "SEG_WEIGHTS=runs/coins.safetensors python -m app"
    require_own_classes_served(tmp_path)


def require_own_classes_served(folder):
    settings = Settings(
        port=0, device="cpu", weights=folder / "runs/coins.safetensors",
        deadline_s=300, stuck_after_s=120,
    )  # fmt: skip
    with serving(settings) as (client, _):
        classes = client.get("/v1/model").json()["classes"]
        assert [(entry["name"], entry["colour"]) for entry in classes] == [
            ("background", [32, 48, 64]),
            ("coin", [255, 215, 0]),
        ]
        photo = (folder / "coins/images/coins 000.jpg").read_bytes()
        answer = client.post("/v1/segment", content=photo)
    (folder / "mask.png").write_bytes(answer.content)
    with Image.open(folder / "mask.png") as mask:
        assert mask.getpalette()[:6] == [32, 48, 64, 255, 215, 0]
        assert mask.size == Image.open(folder / "coins/images/coins 000.jpg").size
        assert set(np.unique(np.asarray(mask))) <= {0, 1}


@pytest.fixture
def photos(tmp_path, photo):
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo).save(tmp_path / "photos/a cat.jpg")
    Image.fromarray(photo[:50, :35]).save(tmp_path / "photos/b.png")
    return tmp_path / "photos"


def colours_as_logits(batch):
    """A substitute for a network: three classes, at half the size."""
    return np.asarray(batch, np.float32)[:, ::2, ::2] / 16


def run_session(_, inputs):
    normalised = inputs["pixels"].transpose(0, 2, 3, 1)
    pixels = (normalised * (0.229, 0.224, 0.225) + (0.485, 0.456, 0.406)) * 255
    return [colours_as_logits(pixels).transpose(0, 3, 1, 2)]


def onnx_runtime():
    """An InferenceSession with the methods that the example calls, and the same shapes."""
    entry = SimpleNamespace(name="pixels", shape=[1, 3, 64, 96])
    session = SimpleNamespace(get_inputs=lambda: [entry], run=run_session)
    module = ModuleType("onnxruntime")
    module.InferenceSession = lambda path: session
    return {"onnxruntime": module}


class Interpreter:
    """As tflite's: uint8 in, uint8 out with a scale and a zero point."""

    def __init__(self, path):
        self.tensors = {}

    def allocate_tensors(self):
        pass

    def get_input_details(self):
        return [{"index": 0, "shape": np.array([1, 64, 96, 3])}]

    def get_output_details(self):
        return [{"index": 7, "quantization": (0.0625, 3)}]

    def set_tensor(self, index, value):
        assert value.dtype == np.uint8
        assert value.shape == (1, 64, 96, 3)
        self.tensors[index] = value

    def invoke(self):
        logits = colours_as_logits(self.tensors[0])
        self.tensors[7] = np.clip(np.rint(logits / 0.0625) + 3, 0, 255).astype(np.uint8)

    def get_tensor(self, index):
        return self.tensors[index]


def tflite_runtime():
    module = ModuleType("ai_edge_litert.interpreter")
    module.Interpreter = Interpreter
    return {"ai_edge_litert": ModuleType("ai_edge_litert"), module.__name__: module}


def example_of(module):
    """The documentation's example that imports from this module."""
    blocks = re.findall(r"```python\n(.*?)```", TRAINING, re.S)
    (block,) = [block for block in blocks if f"from {module} import" in block]
    return block


@pytest.mark.parametrize("runtime", [onnx_runtime, tflite_runtime])
def test_the_examples_of_other_teachers_work(runtime, photos, tmp_path, monkeypatch):
    """Without the runtimes themselves: only how images go in and logits come out."""
    modules = runtime()
    block = example_of(max(modules, key=len))
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "docs/training.md", "exec"), {})

    def teacher(image):
        return colours_as_logits(np.asarray(Image.fromarray(image).resize((96, 64)))[None])[0]

    label_images(list_images(photos), teacher, tmp_path / "expected")
    for name, size in {"a cat": (38, 57), "b": (7, 5)}.items():
        found, expected = (
            np.load(tmp_path / folder / f"{name}.npz")["probabilities"].astype(int)
            for folder in ("soft", "expected")
        )
        assert found.shape == (*size, 3)
        assert np.abs(found - expected).max() <= 2, "as far as 8 bits are exact"


def test_the_onnx_example_works_with_a_real_runtime(photos, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    pool = onnx.helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
    shapes = ("x", [1, 3, 64, 96]), ("y", [1, 3, 32, 48])
    entry, answer = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in shapes
    )
    graph = onnx.helper.make_graph([pool], "teacher", [entry], [answer])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "teacher.onnx"
    )
    monkeypatch.chdir(tmp_path)
    exec(compile(example_of("onnxruntime"), "docs/training.md", "exec"), {})

    def teacher(image):
        scaled = np.asarray(Image.fromarray(image).resize((96, 64)), np.float32) / 255
        normalised = (scaled - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        return normalised.reshape(32, 2, 48, 2, 3).mean(axis=(1, 3))

    label_images(list_images(photos), teacher, tmp_path / "expected")
    for name in ("a cat", "b"):
        found, expected = (
            np.load(tmp_path / folder / f"{name}.npz")["probabilities"].astype(int)
            for folder in ("soft", "expected")
        )
        assert np.abs(found - expected).max() <= 1


def test_soft_labels_are_made_from_a_weights_file(photos, weights_file, tmp_path):
    import torch

    from model.engines.torch_engine import normalise
    from model.state_dict import network_from_weights
    from model.weights import read_weights

    output = tmp_path / "soft"
    arguments = ["--images", photos, "--weights", weights_file, "--output", output]
    soft_labels.main(list(map(str, arguments)))

    weights = read_weights(weights_file)
    network = network_from_weights(weights)
    image = read_photo(photos / "b.png")
    canvas = np.empty((64, 64, 3), np.uint8)
    canvas[:] = [round(255 * level) for level in weights.metadata.mean]
    canvas[:50, :35] = image
    batch = normalise(torch.from_numpy(canvas)[None], weights.metadata.mean, weights.metadata.std)
    with torch.no_grad():
        expected = network(batch)[0, :, :50, :35].double().softmax(0).numpy()
    found = np.load(output / "b.npz")["probabilities"]
    assert found.shape == (7, 5, 21)
    for row, column in np.ndindex(7, 5):
        cell = expected[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert np.abs(found[row, column] - 255 * cell.mean(axis=(1, 2))).max() <= 0.51
    assert np.load(output / "a cat.npz")["probabilities"].shape == (38, 57, 21)

    with pytest.raises(SystemExit, match="holds soft labels already"):
        soft_labels.main(list(map(str, arguments)))
    (photos / "c.png").write_bytes(b"nothing")
    with pytest.raises(SystemExit, match=r"(?s)1 of 3 samples .*c\.png cannot be decoded"):
        soft_labels.main([*map(str, arguments), "--overwrite"])
