"""fcn16s and fcn8s in files, engines and exports, compared with plain float32 PyTorch."""

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from model import convert, golden
from model.averaging import AveragingPredictor
from model.engines import folding
from model.engines.base import Region
from model.engines.choice import start_engine
from model.engines.native import library
from model.engines.native_engine import NativeEngine
from model.engines.ncnn_engine import NcnnEngine
from model.engines.torch_engine import TorchEngine, normalise
from model.errors import EngineError, NetworkError, WeightsError
from model.network import FCN
from model.predictor import open_predictor
from model.state_dict import list_tensors, network_from_weights
from model.weights import SHIPPED_WEIGHTS, Weights, read_weights, write_weights

FINER = ("fcn16s", "fcn8s")


@pytest.fixture(scope="module")
def shipped():
    return read_weights(SHIPPED_WEIGHTS)


@pytest.fixture(scope="module")
def network_of(shipped):
    """Builds the shipped network with random skips; `trained`: upsampling is not bilinear."""

    def build(architecture, *, trained=False):
        torch.manual_seed(0)
        network = FCN(21, architecture).eval()
        state = {name: torch.from_numpy(np.array(a)) for name, a in shipped.tensors.items()}
        del state["transpose_conv.weight"]
        network.load_state_dict(state, strict=False)
        with torch.no_grad():
            for skip in network.skip_convs.values():
                skip.weight.normal_(0, 0.3)
                skip.bias.normal_(0, 0.5)
            if trained:
                for kernel in (*network.doublings.parameters(), network.transpose_conv.weight):
                    kernel.add_(0.02 * torch.randn(kernel.shape))
                network.transpose_conv.bias.normal_(0, 0.5)
        return network

    return build


@pytest.fixture(scope="module")
def weights_of(network_of, shipped):
    """Builds the weights of `network_of`."""

    def build(architecture, *, trained=False):
        network = network_of(architecture, trained=trained)
        metadata = replace(shipped.metadata, architecture=network.architecture.identifier)
        return Weights(list_tensors(network), metadata, source="test")

    return build


def compute_logits(network, canvas, metadata):
    batch = torch.from_numpy(canvas.copy())[None]
    with torch.no_grad():
        return network(normalise(batch, metadata.mean, metadata.std))


NATIVE = [f"native-{kind}" for kind in library.list_kinds()]


def start(kind, weights, **options):
    if kind == "torch":
        return TorchEngine(weights)
    if kind == "ncnn":
        return NcnnEngine(weights)
    try:
        path = library.prepare_kind(kind.partition("-")[2])
    except EngineError as error:
        pytest.skip(f"the native engine cannot be built here: {error}")
    return NativeEngine(weights, path, **options)


@pytest.mark.parametrize("kind", ["torch", "ncnn", *NATIVE])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("architecture", FINER)
def test_masks_of_a_photo_are_those_of_float32_pytorch(
    kind, trained, architecture, network_of, weights_of, photo
):
    weights = weights_of(architecture, trained=trained)
    network, engine = network_of(architecture, trained=trained), start(kind, weights)
    for size, content in (((288, 448), (288, 448)), ((32, 64), (20, 50)), ((320, 480), (300, 451))):
        canvas = np.asarray(Image.fromarray(photo).resize(size[::-1]))
        logits = compute_logits(network, canvas, weights.metadata)[..., : content[0], : content[1]]
        for output in (content, (2 * content[0] - 3, content[1] + 101)):
            expected = logits
            if output != content:
                expected = F.interpolate(logits, output, mode="bilinear", align_corners=False)
            (mask,) = engine.segment([canvas], [Region(content, output)])
            assert np.mean(mask == expected[0].argmax(0).numpy()) >= 0.999
            (sure,) = engine.measure_confidence([canvas], [Region(content, output)])
            exact = 255 * expected[0].softmax(0).amax(0).numpy()
            assert np.abs(sure - exact).max() < 0.6


@pytest.mark.parametrize("kind", NATIVE)
@pytest.mark.parametrize("trained", [False, True])
def test_the_native_mask_is_the_same_with_any_number_of_threads_and_callers(
    kind, trained, weights_of, photo
):
    weights = weights_of("fcn8s", trained=trained)
    canvases = [np.roll(photo[:96, :160], 50 * i, axis=1) for i in range(6)]
    regions = [Region((90, 160), (90, 160)), *[Region((96, 160), (200, 301))] * 5]
    engines = [start(kind, weights, threads=threads) for threads in (1, 2, 5)]
    expected = engines[0].segment(canvases, regions)
    for engine in engines:
        with ThreadPoolExecutor(engine.callers_at_once) as callers:
            calls = callers.map(lambda c, r, e=engine: e.segment([c], [r])[0], canvases, regions)
            for mask, together in zip(expected, calls, strict=True):
                assert np.array_equal(together, mask)
    logits = [engine.coarse_logits(canvases[0]) for engine in engines]
    assert all(np.array_equal(logits[0], other) for other in logits[1:])


@pytest.mark.parametrize("kind", NATIVE[:1])
@pytest.mark.parametrize("architecture", FINER)
def test_bfloat16_is_close(kind, architecture, network_of, weights_of, photo):
    weights = weights_of(architecture)
    try:
        engine = start(kind, weights, precision="bfloat16")
    except EngineError as error:
        pytest.skip(str(error))
    canvas = photo[:288, :448]
    network, metadata = network_of(architecture), weights.metadata
    batch = normalise(torch.from_numpy(canvas.copy())[None], metadata.mean, metadata.std)
    with torch.no_grad():
        expected = network.coarse_logits(batch)[0].numpy()
    assert np.abs(engine.coarse_logits(canvas) - expected).max() <= 0.05 * np.abs(expected).max()
    golden.require_golden_mask(engine, weights)


@pytest.mark.parametrize("architecture", FINER)
def test_the_skips_change_the_masks_of_the_photo(architecture, network_of, photo, shipped):
    """Otherwise the other tests would prove little."""
    canvas = photo[:288, :448]
    fine = compute_logits(network_of(architecture), canvas, shipped.metadata).argmax(1)
    coarse = compute_logits(network_of("fcn32s"), canvas, shipped.metadata).argmax(1)
    assert 0.01 < (fine != coarse).float().mean() < 0.9


@pytest.mark.parametrize("architecture", FINER)
def test_a_start_without_skips_predicts_nearly_what_fcn32s_does(
    architecture, network_of, photo, shipped
):
    """Interpolation in several steps is smoother than in one."""
    network = network_of(architecture)
    for skip in network.skip_convs.parameters():
        torch.nn.init.zeros_(skip)
    canvas = photo[:288, :448]
    finer, coarser = (
        compute_logits(one, canvas, shipped.metadata) for one in (network, network_of("fcn32s"))
    )
    assert (finer.argmax(1) == coarser.argmax(1)).float().mean() > 0.98


@pytest.mark.parametrize("architecture", FINER)
def test_a_weights_file_of_any_architecture_is_served_and_checked(
    architecture, weights_of, photo, tmp_path
):
    path, weights = tmp_path / "w.safetensors", weights_of(architecture)
    write_weights(path, weights.tensors, weights.metadata)
    assert read_weights(path).metadata.network.name == architecture
    predictor = open_predictor(path, device="cpu")  # which compares with the golden mask
    averaged = AveragingPredictor(read_weights(path), device="cpu")
    assert np.mean(predictor(photo) == averaged(photo)) >= 0.999
    changed = {**weights.tensors, "skip_convs.layer3.bias": np.arange(21, dtype=np.float32)}
    engine = start_engine(Weights(changed, weights.metadata), device="cpu")
    with pytest.raises(EngineError, match="of a known mask are equal"):
        golden.require_golden_mask(engine, weights)


def test_float16_kernels_leave_the_interpolation_exact(network_of):
    network = network_of("fcn8s")
    stored = list_tensors(network, half=True)
    kinds = {name: array.dtype.name for name, array in stored.items() if array.ndim == 4}
    assert kinds["skip_convs.layer2.weight"] == kinds["final_conv.weight"] == "float16"
    assert kinds["doublings.layer2.weight"] == kinds["transpose_conv.weight"] == "float32"


def test_tensors_and_metadata_must_agree(weights_of, shipped):
    finer = weights_of("fcn8s")
    for weights in (
        Weights(finer.tensors, shipped.metadata, source="some.file"),
        Weights(shipped.tensors, finer.metadata, source="some.file"),
    ):
        with pytest.raises(WeightsError, match=r"some\.file: .*layer3"):
            folding.fold(weights)
        with pytest.raises(NetworkError, match=r"some\.file: .*layer3"):
            network_from_weights(weights)


def test_an_architecture_that_is_not_known_is_refused(shipped):
    with pytest.raises(WeightsError, match="fcn8s_resnet18, found fcn4s_resnet18"):
        replace(shipped.metadata, architecture="fcn4s_resnet18")


@pytest.mark.parametrize("architecture", ["fcn32s", *FINER])
def test_a_state_dict_converts_to_the_architecture_of_its_skips(architecture, network_of, tmp_path):
    network = copy.deepcopy(network_of(architecture))
    torch.save(network.state_dict(), tmp_path / "net.pth")
    convert.convert(tmp_path / "net.pth", tmp_path / "w.safetensors")
    weights = read_weights(tmp_path / "w.safetensors")
    assert weights.metadata.network.name == architecture
    assert all(np.array_equal(t, weights.tensors[n]) for n, t in list_tensors(network).items())


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("architecture", FINER)
def test_onnxruntime_gives_the_same_masks(architecture, trained, weights_of, photo):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from model import export

    weights = weights_of(architecture, trained=trained)
    model = export.build_model(folding.fold(weights), weights.metadata).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    canvas = photo[:288, :448]
    (masks,) = session.run(["masks"], {"images": canvas[None]})
    (expected,) = start("torch", weights).segment([canvas], [Region((288, 448), (288, 448))])
    assert np.mean(masks[0] == expected) >= 0.9999
