import json

import numpy as np
import pytest

from model.predictor import open_predictor

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from model import export  # noqa: E402  # it imports onnx


def test_onnxruntime_gives_the_same_masks(weights_file, photo, tmp_path, capsys):
    path = tmp_path / "fcn.onnx"
    export.main([str(weights_file), "--output", str(path)])
    assert str(path) in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    predictor = open_predictor(weights_file)
    for pixels in (photo[:288, :448], photo[:96, 32:160]):
        pixels = np.ascontiguousarray(pixels)
        both = np.stack([pixels, pixels[:, ::-1]])
        (masks,) = session.run(["masks"], {"images": both})
        assert masks.dtype == np.uint8
        for mask, image in zip(masks, both, strict=True):
            expected = predictor(np.ascontiguousarray(image))
            assert mask.shape == expected.shape
            assert np.mean(mask == expected) >= 0.9999, "beyond near-ties"
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["classes"]) == list(predictor.metadata.classes)
    assert json.loads(said["weights"]) == predictor.metadata.digest


def test_equal_weights_make_equal_files(weights_file, tmp_path):
    for name in ("a", "b"):
        export.main([str(weights_file), "--output", str(tmp_path / name)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_that_is_not_a_weights_file_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*expected a weights file"):
        export.main([str(tmp_path / "w"), "--output", str(tmp_path / "o")])
