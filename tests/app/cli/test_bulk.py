"""`fcn bulk`: every photo once and completely, whatever ends a run."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from app.cli.plan import Terms, open_plan
from app.cli.source import name_results, open_source
from app.cli.storage import StorageError, open_storage
from app.client import PhotoError
from tests.app.client.scripted import scripted
from tests.conftest import PHOTO, REPOSITORY

pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra bulk")

NAMES = ("a.jpg", "a.png", "deeper/b.jpg", "deeper/still/c.JPG", "d.jpg")


@pytest.fixture
def photos(tmp_path):
    """A folder of five photos, a broken one and a text."""
    folder = tmp_path / "photos"
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        photo = Image.open(PHOTO).resize((200 + number, 150))
        photo.save(folder / name, "PNG" if name.endswith("png") else "JPEG")
    (folder / "broken.jpg").write_bytes(PHOTO.read_bytes()[:2000])
    (folder / "notes.txt").write_text("no photo")
    return folder


def masks_of(client, photos):
    return {
        name: client.post("/v1/segment", content=(photos / name).read_bytes()).content
        for name in NAMES
    }


def results_in(folder):
    """The result files and their bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] != "_bulk"
    }


def test_a_folder_becomes_pngs_once_and_the_failures_are_listed(
    server, client, photos, tmp_path, fcn
):
    command = ("bulk", photos, "out", "--part", 4, "--url", server.address)
    ended = fcn(*command)
    assert ended.returncode == 1, ended.stderr
    first, last = ended.stderr.splitlines()
    assert first.startswith("5 written, 1 failed in ")
    assert last.startswith(f"{tmp_path / 'out' / 'failures.txt'} lists their names")
    found = results_in(tmp_path / "out")
    failures = found.pop("failures.txt").decode()
    assert found == {f"{name}.png": mask for name, mask in masks_of(client, photos).items()}
    assert failures.startswith("broken.jpg\tThe image cannot be decoded (422)")
    assert failures.count("\n") == 1
    assert not (tmp_path / "out" / "_bulk" / "unfinished").exists()

    again = fcn(*command)
    assert again.returncode == 1
    assert again.stderr.startswith("0 written, 6 done before, 1 failed in ")

    # The list of failures is the input of another run, once they are mended.
    shutil.copy(PHOTO, photos / "broken.jpg")
    (tmp_path / "out" / "failures.txt").rename(photos / "rest.txt")
    ended = fcn("bulk", photos / "rest.txt", "rest", "--url", server.address)
    assert ended.returncode == 0, ended.stderr
    assert list(results_in(tmp_path / "rest")) == ["broken.jpg.png"]


def test_an_invalid_address_is_a_wrong_command_line(photos, tmp_path, fcn):
    ended = fcn("bulk", photos, "out", "--url", "localhost")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: 'localhost' is not an address")
    assert not (tmp_path / "out").exists()


def test_run_lengths_give_the_same_masks(server, client, photos, tmp_path, fcn):
    mask_of = pytest.importorskip("pycocotools.mask").decode
    names = [entry["name"] for entry in client.get("/v1/model").json()["classes"]]
    ended = fcn("bulk", photos, "out", "--format", "rle", "--part", 4, "--url", server.address)
    assert ended.returncode == 1, ended.stderr
    out = tmp_path / "out"
    files = ["failures.txt", "part-000000.parquet", "part-000001.parquet"]
    assert list(results_in(out)) == files
    tables = [pq.read_table(out / name) for name in files[1:]]
    digest = client.get("/v1/model").json()["digest"]
    assert all(table.schema.metadata[b"weights"].decode() == digest for table in tables)
    rows = {row["photo"]: row for table in tables for row in table.to_pylist()}
    assert sum(len(table) for table in tables) == len(rows) == len(NAMES) + 1
    assert rows["broken.jpg"]["error"].startswith("The image cannot be decoded")
    assert rows["broken.jpg"]["classes"] is None
    for name, png in masks_of(client, photos).items():
        row = rows[name]
        (out / "one.png").write_bytes(png)
        expected = np.asarray(Image.open(out / "one.png"))
        mask = np.zeros((row["height"], row["width"]), np.uint8)
        for entry in row["classes"]:
            runs = {"size": mask.shape, "counts": entry["counts"].encode()}
            mask[mask_of(runs) == 1] = entry["index"]
            assert entry["name"] == names[entry["index"]]
            assert entry["pixels"] == (expected == entry["index"]).sum()
        assert np.array_equal(mask, expected)


def test_it_computes_locally_unless_a_server_is_named(photos, tmp_path, fcn, weights_file):
    (photos / "broken.jpg").unlink()
    ended = fcn("bulk", photos, "out", SEG_WEIGHTS=str(weights_file), SEG_DEVICE="cpu")
    assert ended.returncode == 0, ended.stderr
    assert len(results_in(tmp_path / "out")) == len(NAMES)


KILLING = """
import os, signal, sys
when, count, log = sys.argv[1], int(sys.argv[2]), sys.argv[3]
replace, calls = os.replace, 0

def replace_or_die(source, target):
    global calls
    calls += 1
    if calls == count and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
    with open(log, "a") as file:
        file.write(f"{target}\\n")
    if calls == count and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)

os.replace = replace_or_die
sys.argv = ["fcn bulk", *sys.argv[4:]]
from app.cli.bulk import main
main()
"""


def run_killing(when, count, log, *arguments):
    """Run `fcn bulk`, and kill it before or after it has renamed so many files."""
    command = [sys.executable, "-c", KILLING, when, count, log, *arguments]
    return subprocess.run(
        list(map(str, command)), cwd=REPOSITORY, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("wanted", ["png", "rle"])
def test_a_killed_run_continues_and_writes_every_result_once_and_completely(
    when, wanted, server, client, photos, tmp_path
):
    out, log = tmp_path / "out", tmp_path / "log"
    ends = []
    while not ends or ends[-1] == -signal.SIGKILL:
        ended = run_killing(
            when, 5, log, photos, out, "--part", 2, "--format", wanted, "--url", server.address,
            "--concurrency", 2,
        )  # fmt: skip
        ends.append(ended.returncode)
        for name, content in results_in(out).items():
            if name.endswith(".png"):
                assert content == masks_of(client, photos)[name.removesuffix(".png")]
            elif name.endswith(".parquet"):
                assert len(pq.read_table(out / name)) == 2
    assert ends[-1] == 1, ended.stderr
    assert len(ends) > 1
    assert "_bulk/photos/" in log.read_text()
    written = [path for path in log.read_text().splitlines() if "_bulk/photos/" not in path]
    assert len(set(written)) == len(written)
    expected = [f"{name}.png" for name in NAMES]
    if wanted == "rle":
        expected = [f"part-00000{number}.parquet" for number in range(3)]
    assert sorted(results_in(out)) == sorted([*expected, "failures.txt"])


@pytest.mark.parametrize("wanted", ["png", "rle"])
def test_a_run_that_was_recorded_in_any_order_is_completed(wanted, server, photos, tmp_path, fcn):
    """As one with `--ray` leaves it: parts 0, 1 and 3 of 6 are recorded, and part 4 was begun."""
    shutil.copy(PHOTO, photos / "e.jpg")
    names = [*NAMES, "e.jpg"]
    (photos / "list.txt").write_text("\n".join(names))
    command = ("bulk", photos / "list.txt", "out", "--part", 1, "--format", wanted)
    assert fcn(*command, "--url", server.address).returncode == 0
    out = tmp_path / "out"
    complete = sorted(results_in(out))
    for number in (2, 4, 5):
        if wanted == "rle":
            (out / f"part-{number:06}.parquet").unlink()
            continue
        (out / "_bulk" / "parts" / f"{number:06}.json").unlink()
        if number != 4:
            (out / f"{names[number]}.png").unlink()
    before = {name: (out / name).stat().st_mtime_ns for name in results_in(out)}

    ended = fcn(*command, "--url", server.address)
    written, done = (2, 4) if wanted == "png" else (3, 3)
    assert ended.stderr.startswith(f"{written} written, {done} done before in "), ended.stderr
    assert ended.returncode == 0
    assert sorted(results_in(out)) == complete
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before


def test_an_unwritable_output_ends_the_run_without_failing_a_photo(server, photos, tmp_path):
    (photos / "broken.jpg").unlink()
    full = (
        "import resource, sys; from app.cli.bulk import main\n"
        "from app.cli.bulk_run import BulkRun; run_plan = BulkRun.run\n"
        "def limited(run):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))\n"
        "    return run_plan(run)\n"
        "if sys.argv.pop(1) == 'full': BulkRun.run = limited\n"
        "main()"
    )

    def run(state):
        command = [sys.executable, "-c", full, state, str(photos), str(tmp_path / "out")]
        return subprocess.run(
            [*command, "--url", server.address], cwd=REPOSITORY, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip

    ended = run("full")
    assert ended.returncode == 3, ended.stderr
    assert "File too large" in ended.stderr.splitlines()[-1]
    assert results_in(tmp_path / "out") == {}
    ended = run("well")
    assert ended.returncode == 0, ended.stderr
    assert len(results_in(tmp_path / "out")) == len(NAMES)


def test_results_of_other_weights_are_not_mixed_in(photos, tmp_path, fcn, client):
    model = client.get("/v1/model").content
    as_json = {"Content-Type": "application/json"}
    mask = client.post("/v1/segment", content=PHOTO.read_bytes())
    headers = {"Content-Type": "image/png", "X-Weights-Digest": "other"}
    answers = [(200, as_json, model), (200, headers, mask.content), (200, as_json, model)]
    with scripted(*answers) as server:
        ended = fcn("bulk", photos, "out", "--url", server.address, "--concurrency", 1)
    assert ended.returncode == 3
    assert "the server has other weights now, other" in ended.stderr
    assert results_in(tmp_path / "out") == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos"], "the following arguments are required: OUTPUT"),
        (["missing", "out"], "missing: no such folder or list of photos"),
        (["photos/a.jpg", "out"], "photos/a.jpg is one photo: give a folder or a list"),
        (["nonsense://x", "out"], "nonsense://x: Protocol not known"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, message, photos, fcn):
    ended = fcn("bulk", *arguments)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(f"fcn bulk: error: {message}")


def make_plan(output, *photos, **changed):
    terms = {"input": "photos", "format": "png", "max_side": None, "weights": "0"} | changed
    return open_plan(open_storage(str(output)), Terms(**terms), photos=photos, part_photos=2)


def test_an_output_takes_one_run_only(tmp_path):
    plan = make_plan(tmp_path / "out", "a.jpg", "b.jpg", "c.jpg")
    assert (plan.photos, plan.parts, plan.count(1)) == (3, 2, 1)
    assert make_plan(tmp_path / "out") == plan
    with pytest.raises(StorageError, match="with format=png instead of rle: choose another output"):
        make_plan(tmp_path / "out", format="rle")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.jpg.png").touch()
    with pytest.raises(StorageError, match=r"has other files, such as a\.jpg\.png"):
        make_plan(tmp_path / "other", "a.jpg")
    with pytest.raises(StorageError, match="no photos in photos"):
        make_plan(tmp_path / "empty")


def test_an_interrupted_list_is_made_again(tmp_path):
    def interrupted():
        yield from ("a.jpg", "b.jpg", "c.jpg")
        raise KeyboardInterrupt

    output = open_storage(str(tmp_path))
    terms = Terms(input="photos", format="png", max_side=None, weights="0")
    with pytest.raises(KeyboardInterrupt):
        open_plan(output, terms, photos=interrupted(), part_photos=2)
    assert open_plan(output, terms, photos=["d.jpg"], part_photos=2).photos == 1


@pytest.mark.parametrize("place", ["{tmp_path}", "memory://listed"])
def test_a_folder_is_listed_without_its_subfolders_content(place, tmp_path):
    output = open_storage(place.format(tmp_path=tmp_path))
    assert list(output.list_folder("")) == []
    for path in ("a.jpg", "b/c.jpg", "b/d/e.jpg"):
        output.write(path, b"")
    assert {"a.jpg"} == set(output.list_folder("")) - {"b", "_bulk"}
    assert {"b/c.jpg"} == set(output.list_folder("b")) - {"b/d"}
    assert list(output.list_folder("none")) == []


def test_results_inside_the_input_folder_are_not_taken_for_photos(photos):
    output = open_storage(str(photos / "out"))
    output.write("e.jpg.png", b"")
    names = set(open_source(str(photos)).list_photos(output))
    assert names == {*NAMES, "broken.jpg"}


def test_a_name_that_is_not_unicode_is_kept(tmp_path):
    name = os.fsdecode(b"\xff\n.jpg")
    output = open_storage(str(tmp_path))
    make_plan(tmp_path, name)
    (line,) = output.read("_bulk/photos/000000.jsonl").splitlines()
    assert json.loads(line) == name


def test_each_photo_has_results_of_its_own():
    photos = ["a.jpg", "a.png", "b/a.jpg", "/a.jpg", "s3://bucket/a.jpg", "gs://bucket/a.jpg"]
    assert [name_results(photo) for photo in photos] == [
        "a.jpg", "a.png", "b/a.jpg", "file:/a.jpg", "s3:/bucket/a.jpg", "gs:/bucket/a.jpg",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "photo", ["../a.jpg", "/a/../../b.jpg", "a//b.jpg", "_bulk/plan.json", "s3:/a.jpg", "a\0.jpg"]
)
def test_no_name_leads_out_of_the_output(photo):
    with pytest.raises(PhotoError, match="rename it"):
        name_results(photo)
