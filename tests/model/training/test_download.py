import hashlib
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from model.errors import DatasetError
from model.training.download import download_voc, fetch_voc
from model.training.voc import open_voc
from tests.conftest import write_voc


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


def test_a_download_shows_how_far_it_is_and_is_unpacked(archive, tmp_path, capsys):
    url, md5 = archive
    fetch_voc(tmp_path / "data", url=url, md5=md5)
    assert len(open_voc(tmp_path / "data", "train")) == 3
    shown = capsys.readouterr().err
    assert "download: 100%" in shown
    assert "unpack:" in shown
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["VOCdevkit"]
    download_voc(tmp_path / "data")  # is there, so nothing is fetched


def test_a_download_that_fails_leaves_nothing_and_says_what_to_do(archive, tmp_path):
    url, _ = archive
    with pytest.raises(DatasetError, match=r"has MD5 .*, not 123: fetch it again"):
        fetch_voc(tmp_path / "data", url=url, md5="123")
    with pytest.raises(DatasetError, match=r"404 .*copy nothing\.tar here by hand"):
        fetch_voc(tmp_path / "data", url=url.replace("voc.tar", "nothing.tar"), md5="")
    assert list((tmp_path / "data").iterdir()) == []
