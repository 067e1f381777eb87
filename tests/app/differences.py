"""Reports how two answers to one image differ, and keeps them, because a rare error occurs once."""

import io

import numpy as np
from PIL import Image


def mask_of(content):
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def explain_differences(images, alone, together, *, again, folder):
    """A line for each image whose two answers differ. Writes both and the image into `folder`.

    `again` sends the image once more, alone, which shows which answer was wrong.
    """
    lines = []
    for number, (image, one, other) in enumerate(zip(images, alone, together, strict=True)):
        if one.content == other.content:
            continue
        third = again(image)
        for name, answer in (("alone", one), ("together", other), ("again", third)):
            (folder / f"{number}-{name}.png").write_bytes(answer.content)
        (folder / f"{number}-image").write_bytes(image)
        lines.append(
            f"image {number}: {difference(one.content, other.content)}; "
            f"asked again: {verdict(one, other, third)}; "
            f"bytes are those of the images {same_as(other, alone)}\n"
            f"  alone: {told(one)}\n  together: {told(other)}"
        )
    return "\n".join([*lines, f"kept in {folder}"]) if lines else ""


def difference(one, other):
    first, second = mask_of(one), mask_of(other)
    if first.shape != second.shape:
        return f"sizes {first.shape} and {second.shape}"
    rows, columns = np.nonzero(first != second)
    if not len(rows):
        return f"equal masks in {len(one)} and {len(other)} bytes"
    return (
        f"{len(rows)} of {first.size} pixels differ, in rows {rows.min()} to {rows.max()} "
        f"and columns {columns.min()} to {columns.max()}"
    )


def verdict(one, other, third):
    if third.content == one.content:
        return "as alone"
    return "as together" if third.content == other.content else "another one still"


def same_as(answer, answers):
    return [number for number, one in enumerate(answers) if one.content == answer.content]


def told(answer):
    headers = answer.headers
    return f"request {headers['x-request-id']}, {headers['server-timing']}"
