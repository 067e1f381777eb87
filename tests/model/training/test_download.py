import hashlib
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from model.errors import DatasetError
from model.training.download import fetch_archive
from model.training.sbd import SBD_FOLDER, add_sbd, download_sbd
from model.training.voc import VOC_FOLDER, download_voc, open_voc, read_list
from tests.conftest import write_voc

scipy_io = pytest.importorskip("scipy.io", reason="scipy reads and writes SBD's masks")


@pytest.fixture
def archive(tmp_path):
    """A small VOC folder as a tar file, its address on a server here, and its MD5."""
    write_voc(tmp_path / "source", [(40, 60)] * 3)
    path = tmp_path / "site" / "voc.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as file:
        file.add(tmp_path / "source" / "VOCdevkit", "VOCdevkit")
    handler = partial(SimpleHTTPRequestHandler, directory=path.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/voc.tar"
        yield url, hashlib.md5(path.read_bytes()).hexdigest()
        server.shutdown()
        thread.join()


def test_a_download_shows_its_progress_and_is_unpacked(archive, tmp_path, capsys):
    url, md5 = archive
    fetch_archive(tmp_path / "data", VOC_FOLDER, url=url, md5=md5)
    assert len(open_voc(tmp_path / "data", "train")) == 3
    shown = capsys.readouterr().err
    assert "download: 100%" in shown
    assert "unpack:" in shown
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["VOCdevkit"]
    download_voc(tmp_path / "data")  # is there, so nothing is fetched


def test_a_failed_download_leaves_nothing_and_says_what_to_do(archive, tmp_path):
    url, _ = archive
    with pytest.raises(DatasetError, match=r"has MD5 .*, not 123: fetch it again"):
        fetch_archive(tmp_path / "data", VOC_FOLDER, url=url, md5="123")
    nothing = url.replace("voc.tar", "nothing.tar")
    with pytest.raises(DatasetError, match=r"404 .*copy nothing\.tar here by hand"):
        fetch_archive(tmp_path / "data", VOC_FOLDER, url=nothing, md5="")
    assert list((tmp_path / "data").iterdir()) == []


@pytest.fixture
def voc_and_sbd(tmp_path):
    """VOC with two images of `train`, one of `val` and two without masks; SBD with all but one."""
    names = write_voc(tmp_path, [(40, 60)] * 2)
    names += write_voc(tmp_path, [(40, 60)], image_set="val")
    names += write_voc(tmp_path, [(40, 60)] * 2, image_set="other")
    for name in names[3:]:
        (tmp_path / VOC_FOLDER / "SegmentationClass" / f"{name}.png").unlink()
    sbd = tmp_path / SBD_FOLDER
    (sbd / "cls").mkdir(parents=True)
    (sbd / "train.txt").write_text("\n".join([names[0], names[3]]))
    (sbd / "val.txt").write_text("\n".join([names[2], names[4]]))
    for index in (0, 2, 3, 4):
        mask = np.full((40, 60), index, np.uint8)
        content = {
            "Segmentation": mask,
            "Boundaries": np.zeros((20, 1)),
            "CategoriesPresent": index,
        }
        scipy_io.savemat(sbd / "cls" / f"{names[index]}.mat", {"GTcls": content})
    return tmp_path, names


def read_mask(folder, name):
    return np.asarray(Image.open(folder / VOC_FOLDER / "SegmentationClass" / f"{name}.png"))


def test_sbd_adds_masks_where_voc_has_none_and_lists_no_image_of_val(voc_and_sbd):
    folder, names = voc_and_sbd
    own = [read_mask(folder, name) for name in names[:3]]
    add_sbd(folder)
    assert read_list(folder, "train_aug") == sorted(names[:2] + names[3:])
    for name, mask in zip(names, own, strict=False):
        np.testing.assert_array_equal(read_mask(folder, name), mask)
    assert (read_mask(folder, names[3]) == 3).all()
    assert (read_mask(folder, names[4]) == 4).all()
    assert len(open_voc(folder, "train_aug")) == 4
    download_sbd(folder)  # its list is there, so nothing is fetched


def test_a_missing_list_of_sbd_is_named(voc_and_sbd):
    folder, _ = voc_and_sbd
    (folder / SBD_FOLDER / "val.txt").unlink()
    with pytest.raises(DatasetError, match=r"val\.txt cannot be read: unpack SBD's archive again"):
        add_sbd(folder)


def test_a_damaged_mask_of_sbd_is_named_and_leaves_no_list(voc_and_sbd):
    folder, names = voc_and_sbd
    (folder / SBD_FOLDER / "cls" / f"{names[4]}.mat").write_bytes(b"damaged")
    with pytest.raises(DatasetError, match=rf"{names[4]}\.mat cannot be read"):
        add_sbd(folder)
    with pytest.raises(DatasetError, match=r"train_aug\.txt is not there"):
        read_list(folder, "train_aug")
