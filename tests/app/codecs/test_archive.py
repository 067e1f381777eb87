import io
import zipfile

import pytest

from app.codecs.answers import Answer
from app.codecs.archive import make_archive, name_entry
from app.codecs.listing import Result
from app.formats import AnswerFormat


def result(name, data=b"x", media_type="image/png"):
    answer = Answer(len(data), len(data), whole=data)
    return Result(name=name, status=200, timings_ms={}, answer=answer, media_type=media_type)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("photo.jpg", "001-photo.png"),
        ("C:\\photos\\Zoë 1.JPG", "001-Zoë 1.png"),
        ("../../etc/passwd", "001-passwd.png"),
        (".bashrc", "001-bashrc.png"),
        ("", "001-file.png"),
        ("a\nb\0c.png", "001-a_b_c.png"),
        ("照片.webp", "001-照片.png"),
        ("x" * 500, f"001-{'x' * 80}.png"),
    ],
)
def test_no_file_name_leads_out_of_the_archives_folder(name, entry):
    assert name_entry(1, result(name), AnswerFormat.PNG) == entry


def test_an_archive_of_any_size_is_read_by_the_standard_library():
    for length in (0, 1, 700_000):
        results = [result(f"{n}.jpg", bytes([n]) * length) for n in range(3)]
        made = make_archive(results, AnswerFormat.PNG)
        data = b"".join(made.pieces) if made.whole is None else made.whole
        assert len(data) == made.size_bytes
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            assert archive.testzip() is None
            assert archive.read("003-2.png") == b"\2" * length
