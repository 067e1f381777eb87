"""docs/tour.ipynb, made of docs/from-the-notebook.md: `python -m tests.tour` writes it."""

import json
import re

from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "from-the-notebook.md"
NOTEBOOK = REPOSITORY / "docs" / "tour.ipynb"

COMMENT = re.compile(r"<!--.*?-->\n\n", re.S)
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.M | re.S)


def build_notebook(page: str) -> str:
    """The page as a notebook: its Python blocks are the code cells, the rest is between them."""
    parts = BLOCK.split(COMMENT.sub("", page))
    cells = []
    for number, part in enumerate(parts):
        text = part.strip("\n")
        if not text:
            continue
        cell = {"id": f"cell-{number}", "metadata": {}, "source": text.splitlines(keepends=True)}
        if number % 2:
            cell |= {"cell_type": "code", "execution_count": None, "outputs": []}
        else:
            cell |= {"cell_type": "markdown"}
        cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1, sort_keys=True) + "\n"


def code_cells(notebook: str) -> list[str]:
    """The code of each cell that has any."""
    cells = json.loads(notebook)["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


if __name__ == "__main__":
    NOTEBOOK.write_text(build_notebook(PAGE.read_text()))
