import numpy as np
import pytest
import torch

from model import golden
from model.engines import folding
from model.engines.base import Region
from model.engines.choice import start_engine
from model.engines.cuda_engine import CudaEngine
from model.engines.torch_engine import TorchEngine
from model.errors import EngineError
from model.network import FCN
from model.weights import SHIPPED_WEIGHTS, Weights, read_weights


@pytest.fixture(scope="module")
def weights():
    return read_weights(SHIPPED_WEIGHTS)


def test_the_plain_network_is_pytorchs(weights):
    network = FCN(len(weights.metadata.classes))
    state = {name: torch.from_numpy(np.array(array)) for name, array in weights.tensors.items()}
    network.load_state_dict(state)
    network.eval()
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = network.backbone(images)
        features = features["out"] if isinstance(features, dict) else features
        expected = network.final_conv(features)[0].numpy()
    found = golden.compute_coarse_logits(folding.fold(weights), images[0].numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_the_plain_logits_are_pytorchs(weights):
    image, logits = golden.compute_golden_logits(weights)
    expected = TorchEngine(weights).segment([image], [Region(golden.SIZE, golden.SIZE)])[0]
    clear = golden.find_clear_pixels(logits)
    assert (logits.argmax(0) == expected)[clear].all()


def test_a_near_tie_is_not_clear():
    logits = np.array([[[0, 0, 0]], [[10, 10, 10]], [[9, 9.9, 10]]], np.float32)
    assert golden.find_clear_pixels(logits).tolist() == [[True, False, False]]
    assert golden.find_clear_pixels(np.zeros((3, 1, 2), np.float32)).all()


@pytest.mark.parametrize("seed", golden.SEEDS)
def test_half_precision_passes_with_each_picture(weights, seed, monkeypatch):
    monkeypatch.setattr(golden, "SEEDS", (seed,))
    for precision in ("float16", "bfloat16"):
        engine = CudaEngine(weights, device="cpu", precision=precision)
        golden.require_golden_mask(engine, weights)


def test_the_shipped_weights_see_more_than_one_class_in_the_picture(weights):
    _, logits = golden.compute_golden_logits(weights)
    mask = logits.argmax(0)
    assert np.bincount(mask.ravel()).max() < 0.6 * mask.size
    assert golden.find_clear_pixels(logits).mean() > 0.5


def test_an_engine_with_the_network_passes(weights):
    golden.require_golden_mask(start_engine(weights, device="cpu"), weights)


def test_an_engine_with_something_else_does_not(weights):
    tensors = dict(weights.tensors)
    bias = tensors["final_conv.bias"].copy()
    bias[0] += 20
    other = Weights({**tensors, "final_conv.bias": bias}, weights.metadata)
    engine = start_engine(other, device="cpu")
    with pytest.raises(EngineError, match="of a known mask are equal, 99% are required"):
        golden.require_golden_mask(engine, weights)


def test_weights_that_are_no_numbers_do_not(weights):
    tensors = dict(weights.tensors)
    bias = np.full_like(tensors["final_conv.bias"], np.nan)
    broken = Weights({**tensors, "final_conv.bias": bias}, weights.metadata, source="there")
    with pytest.raises(EngineError, match="there: the network's logits are not finite"):
        golden.compute_golden_logits(broken)
