"""The pages and their files over HTTP, without a browser."""

import gzip
import re

import pytest

from app.access.keys import format_line, make_key
from app.routes.pages import DOCS_POLICY, PAGE_POLICY
from tests.app.conftest import serving
from tests.conftest import REPOSITORY

WEB = REPOSITORY / "app" / "web"
NAMES = sorted(str(path.relative_to(WEB)) for path in WEB.rglob("*") if path.is_file())
SERVED = [f"/web/{name}" for name in NAMES if name not in ("index.html", "docs.html")]
SWAGGER = ["/web/swagger/swagger-ui-bundle.js", "/web/swagger/swagger-ui.css"]
PAGES = ["/", "/docs"]
WRITTEN = [name for name in NAMES if name.endswith((".html", ".css", ".js", ".svg"))]
MAX_LINES = 250


def policy_of(answer):
    parts = answer.headers["content-security-policy"].split("; ")
    return dict(part.split(" ", 1) for part in parts)


@pytest.mark.parametrize("path", PAGES + SERVED + SWAGGER)
def test_every_file_is_served_with_its_type_a_policy_and_a_tag(client, path):
    answer = client.get(path)
    assert answer.status_code == 200
    suffix = path.rpartition(".")[2] if "." in path else "html"
    types = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
    types |= {"svg": "image/svg+xml", "jpg": "image/jpeg"}
    assert answer.headers["content-type"].split(";")[0] == types[suffix]
    assert policy_of(answer)["default-src"] == "'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    headed = client.head(path)
    assert headed.status_code == 200
    assert headed.content == b""
    assert headed.headers["content-length"] == answer.headers["content-length"]
    again = client.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == answer.headers["etag"]
    assert again.headers["content-security-policy"] == answer.headers["content-security-policy"]


@pytest.mark.parametrize("path", PAGES)
def test_the_policies_allow_this_server_only_and_nothing_inline(client, path):
    for name, sources in policy_of(client.get(path)).items():
        allowed = {"'none'", "'self'", *({"blob:", "data:"} if name == "img-src" else ())}
        assert set(sources.split()) <= allowed, name
    for name in ("base-uri", "form-action", "frame-ancestors"):
        assert policy_of(client.get(path))[name] == "'none'"


def test_the_policies_are_documented():
    text = (REPOSITORY / "docs" / "security.md").read_text()
    (browsers,) = re.findall(r"^### Browsers\n(.*?)(?=^#|\Z)", text, re.M | re.S)
    browsers = " ".join(browsers.split())
    assert PAGE_POLICY in browsers
    assert DOCS_POLICY in browsers


@pytest.mark.parametrize("path", ["/", "/web/js/main.js", *SWAGGER])
def test_texts_are_compressed_for_those_who_accept_it(client, path):
    packed = client.get(path, headers={"Accept-Encoding": "gzip"})
    plain = client.get(path, headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content
    assert int(packed.headers["content-length"]) < len(plain.content)
    assert packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    assert packed.headers["etag"] != plain.headers["etag"], "they are different bytes"


def test_pictures_are_not_compressed_again(client):
    answer = client.get("/web/sample.jpg", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in answer.headers
    assert answer.content == (WEB / "sample.jpg").read_bytes()


@pytest.mark.parametrize("tag", ['"other"', 'W/"x", "y"', ""])
def test_another_tag_gets_the_file(client, tag):
    assert client.get("/", headers={"If-None-Match": tag}).status_code == 200


def test_a_list_of_tags_and_any_tag_match(client):
    tag = client.get("/").headers["etag"]
    for value in (f'"other", {tag}', f"W/{tag}", "*"):
        assert client.get("/", headers={"If-None-Match": value}).status_code == 304


@pytest.mark.parametrize(
    "name",
    ["nothing.js", "", "js", "js/", "index.html", "docs.html", "../main.py", "%2e%2e/main.py",
     "js/..%2f..%2fmain.py", "/etc/passwd", "%2fetc%2fpasswd", "swagger/main.py", "js//main.js"],
)  # fmt: skip
def test_no_other_file_is_served(client, name):
    answer = client.get(f"/web/{name}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_pages_need_no_key_and_have_no_rate_limit(settings, tmp_path):
    (tmp_path / "keys").write_text(format_line("anna", make_key()))
    own = {"keys_file": tmp_path / "keys", "rate_limit": "1/hour"}
    with serving(settings.model_copy(update=own)) as (client, _):
        for path in [*PAGES, *SERVED]:
            assert client.get(path).status_code == 200, path
        assert client.get("/v1/model").status_code == 401
        assert client.get("/web/nothing").status_code == 404


@pytest.mark.parametrize("page", ["index.html", "docs.html"])
def test_what_a_page_links_exists_and_nothing_is_inline(client, page):
    text = (WEB / page).read_text()
    linked = re.findall(r'(?:src|href)="([^"#]+)"', text)
    assert len(linked) >= 3
    for target in linked:
        assert client.get("/" + target.removeprefix("./")).status_code == 200, target
    assert not re.search(r"<style|style=|\son\w+=|javascript:", text)
    assert all(re.search(r"></script>", tag) for tag in re.findall(r"<script.*", text))


@pytest.mark.parametrize("name", [name for name in WRITTEN if name != "icon.svg"])
def test_no_file_names_another_server(name):
    addresses = re.findall(r"\w+://[^\s\"')]+", (WEB / name).read_text())
    assert addresses == []


@pytest.mark.parametrize("name", WRITTEN)
def test_files_are_short_and_say_first_what_they_are_for(name):
    lines = (WEB / name).read_text().splitlines()
    assert len(lines) <= MAX_LINES
    if name.endswith((".js", ".css")):
        assert lines[0].startswith(("// ", "/* "))


def test_every_module_imports_what_exists():
    for path in (WEB / "js").glob("*.js"):
        for name in re.findall(r'from "\./([^"]+)"', path.read_text()):
            assert (WEB / "js" / name).is_file(), f"{path.name} imports {name}"


def test_the_compressed_form_is_a_gzip_file(client):
    with client.stream("GET", "/web/icon.svg", headers={"Accept-Encoding": "gzip"}) as answer:
        packed = b"".join(answer.iter_raw())
    assert gzip.decompress(packed) == (WEB / "icon.svg").read_bytes()
