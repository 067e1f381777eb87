import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.http.forms import MAX_PARTS, File, FormError, read_file, read_files

BOUNDARY = "b0und"
CONTENT_TYPE = f'multipart/form-data; boundary="{BOUNDARY}"'


def form(*parts, end=True):
    """A form of (disposition, content) pairs."""
    body = b"".join(
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode()
        + content
        + b"\r\n"
        for disposition, content in parts
    )
    return body + (f"--{BOUNDARY}--\r\n".encode() if end else b"")


def read(body, *, content_type=CONTENT_TYPE, step=1 << 16):
    async def chunks():
        for start in range(0, len(body), step):
            yield body[start : start + step]

    return asyncio.run(read_file(content_type, chunks(), name="file"))


@given(
    content=st.binary(max_size=300)
    | st.sampled_from([b"\r\n--b0un", b"--b0und", b"\r\n\r\n", b"-"]),
    step=st.integers(1, 400),
)
def test_a_file_is_read_unchanged_however_the_body_is_divided(content, step):
    body = form(('name="note"', b"hello"), ('name="file"; filename="a.jpg"', content))
    if b"\r\n--b0und" in b"\r\n" + content:
        return  # not a form that holds this content
    assert read(body, step=step) == (content, ["note", "file"])


def test_an_error_names_the_fields_if_the_file_is_missing():
    assert read(form(('name="photo"; filename="a.jpg"', b"x"))) == (None, ["photo"])
    assert read(form(('name="file"', b"only text"))) == (None, ["file"])
    assert read(form()) == (None, [])


FILE = ('name="file"; filename="a"', b"x")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (form(FILE, FILE), "more than one file"),
        (form(FILE, end=False), "no end"),
        (form(*[('name="a"', b"")] * (MAX_PARTS + 1)), f"more than {MAX_PARTS} parts"),
        (form((f'name="{"a" * 100_000}"', b"")), "RFC 7578"),
        (form(('filename="a"', b"x")), "no name"),
        (b"", "no end"),
        (b"no form at all", "RFC 7578"),
    ],
)
def test_an_invalid_form_is_refused(body, why):
    with pytest.raises(FormError, match=why):
        read(body)


def test_several_files_come_out_in_order_up_to_the_limit():
    async def chunks(body):
        for start in range(0, len(body), 7):
            yield body[start : start + 7]

    def read_all(*parts, max_files=3):
        return asyncio.run(
            read_files(CONTENT_TYPE, chunks(form(*parts)), name="files", max_files=max_files)
        )

    parts = [(f'name="files"; filename="{name}"', name.encode()) for name in ("b", "a", "b")]
    other = ('name="more"; filename="c"', b"c")
    files = [File("b", b"b"), File("a", b"a"), File("b", b"b")]
    assert read_all(*parts) == (files, 3 * ["files"])
    assert read_all(parts[0], other) == (files[:1], ["files", "more"])
    with pytest.raises(FormError, match="more than 2 files"):
        read_all(*parts, max_files=2)
    with pytest.raises(FormError, match=f"more than {MAX_PARTS + 2} parts"):
        read_all(*[('name="note"', b"")] * (MAX_PARTS + 3))


def test_thousands_of_parts_are_not_read_to_the_end():
    taken = []

    async def chunks():
        for _ in range(10_000):
            taken.append(1)
            yield form(('name="a"', b"x"), end=False)

    with pytest.raises(FormError, match="parts"):
        asyncio.run(read_file(CONTENT_TYPE, chunks(), name="file"))
    assert len(taken) == MAX_PARTS + 1


def test_a_form_needs_a_boundary():
    with pytest.raises(FormError, match="boundary"):
        read(form(FILE), content_type="multipart/form-data")
