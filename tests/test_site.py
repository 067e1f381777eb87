"""The documentation's website: every page is in it, and no link of it is broken."""

import importlib.util
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

SITE = REPOSITORY / "deploy" / "site"


def stage(folder, script=SITE / "stage.py"):
    subprocess.run([sys.executable, script, folder], check=True)


def test_every_document_is_a_page_of_the_menu_and_every_link_leads_to_a_file(tmp_path):
    stage(tmp_path / "pages")
    staged = {str(p.relative_to(tmp_path / "pages")) for p in (tmp_path / "pages").rglob("*.md")}
    documents = {path.name for path in (REPOSITORY / "docs").glob("*.md")}
    assert documents | {"index.md", "changelog.md"} <= staged
    menu = re.findall(r"^  - [^:]+: (\S+\.md)$", (SITE / "mkdocs.yml").read_text(), re.M)
    assert documents | {"index.md", "changelog.md"} <= set(menu)
    assert set(menu) <= staged
    links = 0
    for path in (tmp_path / "pages").rglob("*.md"):
        text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in target:
                links += 1
                linked = (path.parent / target).resolve()
                assert linked.is_file(), f"{path.name} links {target}"
                assert (tmp_path / "pages").resolve() in linked.parents
    assert links > 20


@pytest.mark.skipif(
    importlib.util.find_spec("material") is None, reason="needs make docs' packages"
)
def test_the_website_is_built_and_a_broken_link_fails_the_build(tmp_path):
    copy = tmp_path / "deploy" / "site"
    shutil.copytree(SITE, copy)
    stage(tmp_path / "build" / "pages")
    build = [sys.executable, "-m", "mkdocs", "build", "-f", str(copy / "mkdocs.yml")]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    index = (tmp_path / "build" / "site" / "index.html").read_text()
    assert "FCN segmentation service" in index
    assert not re.search(r'<(script|link)[^>]+(src|href)="(https?:)?//', index)
    assert (tmp_path / "build" / "site" / "search" / "search_index.json").is_file()
    page = tmp_path / "build" / "pages" / "api.md"
    page.write_text(page.read_text() + "\n[nowhere](nowhere.md) [section](training.md#nowhere)\n")
    broken = subprocess.run(build, capture_output=True, text=True, check=False)
    assert broken.returncode != 0
