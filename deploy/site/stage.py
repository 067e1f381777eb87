"""Collects the pages of the website: `python deploy/site/stage.py FOLDER`.

README.md becomes the first page, and the documents are beside it. Every other file that a page
links to is copied, so that no link leads out of the site. Uses only the standard library.
"""

import re
import shutil
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
OTHERS = "repository"
"""The folder of the site for linked files that are not documents."""

LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)]*)?(\))")
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}


def stage(folder: Path) -> list[str]:
    """Write the pages into an empty folder, and return their names."""
    shutil.rmtree(folder, ignore_errors=True)
    placed: dict[Path, str] = {}
    waiting = [REPOSITORY / name for name in PAGES]
    waiting += sorted((REPOSITORY / "docs").glob("*.md"))
    while waiting:
        source = waiting.pop()
        if source in placed:
            continue
        place = placed[source] = find_place(source)
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            target.with_suffix(".md").write_text(list_folder(source), encoding="utf-8")
        elif source.suffix == ".md":
            text, linked = move_links(source)
            target.write_text(text, encoding="utf-8")
            waiting += linked
        else:
            shutil.copyfile(source, target)
    return sorted(placed.values())


def find_place(source: Path) -> str:
    """Return the path of a repository's file in the site."""
    path = source.relative_to(REPOSITORY)
    if path.as_posix() in PAGES:
        return PAGES[path.as_posix()]
    if path.parts[0] == "docs":
        return path.relative_to("docs").as_posix()
    return f"{OTHERS}/{path.as_posix()}"


def move_links(source: Path) -> tuple[str, list[Path]]:
    """Return a page with its links changed for the site, and the files that it links to."""
    here = Path(find_place(source)).parent
    linked: list[Path] = []

    def move(match: re.Match[str]) -> str:
        opening, target, anchor, closing = match.groups(default="")
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = (source.parent / target).resolve()
        if not path.exists():
            return match[0]  # mkdocs reports it
        linked.append(path)
        place = find_place(path) + (".md" if path.is_dir() else "")
        up = "../" * len(here.parts)
        return f"{opening}{up}{place}{anchor}{closing}"

    parts = re.split(r"(^```.*?^```$)", source.read_text(encoding="utf-8"), flags=re.M | re.S)
    parts[::2] = [LINK.sub(move, part) for part in parts[::2]]
    return "".join(parts), linked


def list_folder(folder: Path) -> str:
    """Return a page that lists a folder's files."""
    names = sorted(path.name for path in folder.iterdir())
    path = folder.relative_to(REPOSITORY).as_posix()
    return f"# {path}\n\nFiles of this folder in the repository:\n\n" + "".join(
        f"- `{name}`\n" for name in names
    )


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
