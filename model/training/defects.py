"""Defects of the files of an image set, each with its remedy.

Knows nothing of how files are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model.errors import DatasetError

MAX_DEFECTS_SHOWN = 10
"""The number of defects of one kind that are listed."""


@dataclass(frozen=True, slots=True)
class Defect:
    """One defect. Defects with the same `remedy` are listed together."""

    text: str
    remedy: str


class BrokenSample(DatasetError):
    """An image and its mask cannot be used. Has all their defects."""

    def __init__(self, *defects: Defect | str) -> None:
        """PyTorch raises the error of a loader process anew, with its traceback as a string."""
        self.defects = tuple(map(_read_defect, defects))
        super().__init__("; ".join(f"{one.text}. {one.remedy}" for one in self.defects))


def _read_defect(defect: Defect | str) -> Defect:
    """Read a defect from the last line of a traceback that ends with a BrokenSample."""
    if isinstance(defect, Defect):
        return defect
    last = defect.strip().splitlines()[-1]
    text, _, remedy = last.partition(f"{BrokenSample.__name__}: ")[2].rpartition(". ")
    return Defect(text or last, remedy)


def require_sound(broken: Sequence[BrokenSample], *, name: str, samples: int) -> None:
    """Raises DatasetError that lists everything, by kind, unless `broken` is empty."""
    if not broken:
        return
    by_remedy: dict[str, list[str]] = {}
    for error in broken:
        for defect in error.defects:
            by_remedy.setdefault(defect.remedy, []).append(defect.text)
    lines = [f"{len(broken)} of {samples} samples of the image set {name!r} are broken:"]
    for remedy, texts in by_remedy.items():
        more = len(texts) - MAX_DEFECTS_SHOWN
        lines += [f"  {text}" for text in texts[:MAX_DEFECTS_SHOWN]]
        lines += [f"  and {more} more of this kind"] if more > 0 else []
        lines.append(f"  -> {remedy}")
    raise DatasetError("\n".join(lines))
