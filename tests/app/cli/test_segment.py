"""`fcn segment`: photos and folders in, files out, and an exit status that tells the result."""

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from PIL import Image

from app.access.keys import format_line, make_key
from app.cli.outputs import Job, NoPhotos, Outputs, list_jobs
from tests.app.conftest import serving
from tests.conftest import PHOTO, REPOSITORY


@pytest.fixture
def photos(tmp_path):
    """A folder of three photos, one of them in a subfolder, and a text."""
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    shutil.copy(PHOTO, folder / "a.jpg")
    Image.effect_noise((80, 60), 50).convert("RGB").save(folder / "b.PNG")
    shutil.copy(PHOTO, folder / "deeper" / "a.jpg")
    (folder / "notes.txt").write_text("no photo")
    return folder


def test_photos_and_folders_become_masks_and_a_second_run_skips_them(
    server, client, photos, tmp_path, fcn
):
    single = tmp_path / "single.webp"
    Image.open(PHOTO).save(single, lossless=True)
    command = ("segment", single, photos, "-o", "out", "--overlay", "--npy", "--url")
    ended = fcn(*command, server.address)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""
    assert ended.stderr.startswith("4 written in ")
    assert "\x1b" not in ended.stderr
    out = tmp_path / "out"
    written = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    stems = ["a", "b", "deeper/a", "single"]
    assert written == sorted(s + e for s in stems for e in (".png", ".overlay.jpg", ".npy"))
    answer = client.post("/v1/segment", content=PHOTO.read_bytes()).content
    assert (out / "a.png").read_bytes() == answer
    mask = np.asarray(Image.open(io.BytesIO(answer)))
    assert np.array_equal(np.load(out / "deeper" / "a.npy"), mask)
    assert Image.open(out / "a.overlay.jpg").size == (451, 300)

    # What is damaged, or older than its photo, is computed again.
    (out / "b.png").write_bytes((out / "b.png").read_bytes()[:-1])
    os.utime(out / "single.npy", (1, 1))
    again = fcn(*command, server.address)
    assert again.returncode == 0
    assert again.stderr.startswith("2 written, 2 skipped, done before in ")
    assert fcn(*command, server.address).stderr.startswith("0 written, 4 skipped")
    anew = fcn(*command, server.address, "--overwrite")
    assert anew.stderr.startswith("4 written in ")


def test_classes_that_are_not_kept_become_background(server, client, fcn, tmp_path):
    kept = client.get("/v1/model").json()["classes"][15]["name"]
    ended = fcn("segment", PHOTO, "--classes", kept, FCN_URL=server.address)
    assert ended.returncode == 0, ended.stderr
    answer = client.post("/v1/segment", content=PHOTO.read_bytes(), params={"classes": kept})
    assert (tmp_path / "masks" / f"{PHOTO.stem}.png").read_bytes() == answer.content
    ended = fcn("segment", PHOTO, "--classes", f"{kept},dragon", "-o", "b", FCN_URL=server.address)
    assert ended.returncode == 2
    assert "the server has no class 'dragon'; it has background, " in ended.stderr
    assert not (tmp_path / "b").exists()
    assert fcn("segment", PHOTO, "--classes", f"{kept},").returncode == 2


def test_a_broken_photo_fails_alone(server, photos, fcn, tmp_path):
    (photos / "broken.jpg").write_bytes(PHOTO.read_bytes()[:2000])
    ended = fcn("segment", photos, "--concurrency", 1, FCN_URL=server.address)
    assert ended.returncode == 1
    first, last = ended.stderr.splitlines()
    assert first.startswith(f"failed: {photos / 'broken.jpg'}: The image cannot be decoded (422)")
    assert last.startswith("3 written, 1 failed in ")
    assert not (tmp_path / "masks" / "broken.png").exists()


def test_without_a_server_it_says_what_to_do(photos, fcn):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    ended = fcn("segment", photos, "--url", f"http://127.0.0.1:{port}")
    assert ended.returncode == 3
    assert f"error: http://127.0.0.1:{port} cannot be reached" in ended.stderr
    assert "fcn serve" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_missing_key_ends_the_command_at_once_and_a_valid_key_works(
    settings, photos, fcn, tmp_path
):
    key = make_key()
    (tmp_path / "keys.txt").write_text(format_line("user", key, admin=False) + "\n")
    with serving(settings.model_copy(update={"keys_file": tmp_path / "keys.txt"})) as (_, server):
        refused = fcn("segment", photos, "--url", server.address, "--concurrency", 1)
        assert refused.returncode == 3
        assert refused.stderr.count("A valid API key is needed (401)") == 1
        allowed = fcn("segment", photos, "--url", server.address, FCN_API_KEY=key)
        assert allowed.returncode == 0, allowed.stderr


def test_it_computes_locally_without_a_server(photos, fcn, weights_file, tmp_path, client):
    ended = fcn(
        "segment", photos, "--local", "--overlay",
        SEG_WEIGHTS=str(weights_file), SEG_DEVICE="cpu", SEG_MAX_SIDE="1024",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    answer = client.post("/v1/segment", content=PHOTO.read_bytes()).content
    assert (tmp_path / "masks" / "a.png").read_bytes() == answer
    wrong = fcn("segment", photos, "--local", "--overwrite", SEG_WEIGHTS="no such file")
    assert wrong.returncode == 3
    assert wrong.stderr.splitlines()[-1].startswith("error: cannot compute here: no such file")


def test_ctrl_c_leaves_complete_files_and_says_how_to_continue(photos, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "segment", str(photos), "-o", str(tmp_path / "out"),
             "--url", url],
            cwd=REPOSITORY, stderr=subprocess.PIPE, text=True,
            # Where these tests run in the background of a shell, Ctrl-C is ignored.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        connection, _ = listener.accept()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=120)
        connection.close()
    assert process.returncode == 130
    assert told.splitlines()[-1] == "interrupted: the same command resumes from here"
    assert "Traceback" not in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: PHOTO"),
        (["missing.jpg"], "missing.jpg: no such file or folder"),
        (["."], "no photos in .: looked for .bmp, .gif"),
        (["x.jpg", "--concurrency", "0"], "argument --concurrency: 0 is not from 1 to 1000"),
        (["x.jpg", "--concurrency", "all"], "argument --concurrency: all is not from 1 to 1000"),
        (["x.jpg", "--max-side", "9"], "argument --max-side: 9 is not from 32 to 65536"),
        (["x.jpg", "--timeout", "0"], "argument --timeout: 0 is not a time above 0 s"),
        (["x.jpg", "--timeout", "inf"], "argument --timeout: inf is not a time above 0 s"),
        (["x.jpg", "--timeout", "long"], "argument --timeout: long is not a time above 0 s"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, message, fcn):
    ended = fcn("segment", *arguments)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(f"fcn segment: error: {message}")


def test_no_address_is_one_line(photos, fcn):
    ended = fcn("segment", photos, "--url", "localhost")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: 'localhost' is not an address")


def test_photos_that_differ_only_in_their_suffix_keep_it(tmp_path):
    for name in ("a.jpg", "a.png", "b.jpg"):
        (tmp_path / name).touch()
    out = tmp_path / "out"
    assert list_jobs([tmp_path], out) == [
        Job(tmp_path / "a.jpg", out / "a.jpg"),
        Job(tmp_path / "a.png", out / "a.png"),
        Job(tmp_path / "b.jpg", out / "b"),
    ]


def test_a_photo_named_twice_is_sent_once_and_results_are_not_photos(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "a.jpg").touch()
    (tmp_path / "out" / "a.png").touch()
    jobs = list_jobs([tmp_path / "a.jpg", tmp_path], tmp_path / "out")
    assert jobs == [Job(tmp_path / "a.jpg", tmp_path / "out" / "a")]
    with pytest.raises(NoPhotos):
        list_jobs([tmp_path / "out"], tmp_path / "out")


def test_results_with_a_name_that_ends_in_a_suffix_are_found(tmp_path):
    job = Job(tmp_path / "a.jpg", tmp_path / "out" / "a.jpg")
    names = [path.name for path in Outputs(overlay=True, npy=True).list_files(job)]
    assert names == ["a.jpg.png", "a.jpg.overlay.jpg", "a.jpg.npy"]
