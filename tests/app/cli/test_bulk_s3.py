"""`fcn bulk` with a real S3 API on this machine: moto's server."""

import shutil
import signal
import subprocess
import sys

import httpx
import pytest

from app.cli.source import open_source
from app.cli.storage import open_storage
from tests.conftest import PHOTO, REPOSITORY

s3fs = pytest.importorskip("s3fs", reason="needs the extra bulk")
moto_server = pytest.importorskip("moto.server", reason="needs moto's server, see the extra dev")


@pytest.fixture
def bucket(monkeypatch):
    """An empty bucket, whose server this process and its children use."""
    server = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    try:
        httpx.post(f"http://{host}:{port}/moto-api/reset").raise_for_status()
        filesystem = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
        filesystem.mkdir("photos")
        yield filesystem
    finally:
        server.stop()


KILLING = """
import os, signal, sys
from app.cli.storage import Storage
when, count, log = sys.argv[1], int(sys.argv[2]), sys.argv[3]
calls = 0

def deadly(write):
    def write_or_die(storage, path, content):
        global calls
        calls += 1
        if calls == count and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        write(storage, path, content)
        with open(log, "a") as file:
            file.write(f"{path}\\n")
        if calls == count and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
    return write_or_die

Storage.write, Storage.write_file = deadly(Storage.write), deadly(Storage.write_file)
sys.argv = ["fcn bulk", *sys.argv[4:]]
from app.cli.bulk import main
main()
"""


@pytest.mark.parametrize("wanted", ["png", "rle"])
def test_from_s3_to_s3_killed_on_the_way(wanted, bucket, server, client, tmp_path):
    names = ["a.jpg", "b/a.jpg", "b/c/a.jpg"]
    bucket.pipe({f"photos/in/{name}": PHOTO.read_bytes() for name in names})
    bucket.pipe({"photos/in/empty.jpg": b"", "photos/in/notes.txt": b"no photo"})
    log, ends = tmp_path / "log", []
    while not ends or ends[-1] == -signal.SIGKILL:
        ended = subprocess.run(
            [sys.executable, "-c", KILLING, ("before", "after")[len(ends) % 2], "4", str(log),
             "s3://photos/in", "s3://photos/out", "--part", "2", "--format", wanted,
             "--url", server.address],
            cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        ends.append(ended.returncode)
    assert ends[-1] == 1, ended.stderr
    assert len(ends) > 1
    written = [line for line in log.read_text().splitlines() if "_bulk/photos/" not in line]
    assert len(set(written)) == len(written)
    found = {name.removeprefix("photos/out/") for name in bucket.find("photos/out")}
    results = {name for name in found if not name.startswith("_bulk/")}
    failures = bucket.cat_file("photos/out/failures.txt").decode()
    assert failures.startswith("empty.jpg\t")
    assert failures.count("\n") == 1
    if wanted == "png":
        assert results == {*(f"{name}.png" for name in names), "failures.txt"}
        answer = client.post("/v1/segment", content=PHOTO.read_bytes()).content
        assert {bucket.cat_file(f"photos/out/{name}.png") for name in names} == {answer}
    else:
        assert results == {"part-000000.parquet", "part-000001.parquet", "failures.txt"}


def test_a_list_may_name_photos_of_several_places(bucket, server, tmp_path, fcn):
    bucket.pipe("photos/a.jpg", PHOTO.read_bytes())
    shutil.copy(PHOTO, tmp_path / "b.jpg")
    (tmp_path / "list.txt").write_text(
        f"s3://photos/a.jpg\nb.jpg\n\n{tmp_path / 'b.jpg'}\ts3://x\ns3://photos/missing.jpg\n"
    )
    ended = fcn("bulk", "list.txt", "s3://photos/out", "--url", server.address)
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.startswith("3 written, 1 failed")
    assert "photos/out/failures.txt lists" in ended.stderr
    expected = ["b.jpg.png", f"file:{tmp_path / 'b.jpg'}.png", "s3:/photos/a.jpg.png"]
    found = [name.removeprefix("photos/out/") for name in bucket.find("photos/out")]
    assert sorted(name for name in found if name.endswith(".png")) == sorted(expected)


def test_a_list_of_a_bucket_has_more_than_one_page(bucket):
    bucket.pipe({f"photos/in/{number:04}.jpg": b"" for number in range(1001)})
    source = open_source("s3://photos/in")
    assert len(set(source.list_photos(open_storage("s3://photos/out")))) == 1001
    bucket.pipe({"photos/index.jpg": b"", "photos/in/deeper/a.jpg": b""})
    found = list(open_storage("s3://photos").list_folder("in"))
    assert found == [f"in/{number:04}.jpg" for number in range(1001)]
    assert list(open_storage("s3://photos/in/deeper").list_folder("")) == ["a.jpg"]
    assert list(open_storage("s3://photos").list_folder("none")) == []


def test_a_bucket_that_does_not_answer_ends_the_run(server, tmp_path, fcn, bucket):
    closed = "http://127.0.0.1:9"
    ended = fcn(
        "bulk", "s3://photos/in", "out", "--url", server.address,
        AWS_ENDPOINT_URL=closed, AWS_MAX_ATTEMPTS="1",
    )  # fmt: skip
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.iterdir())
