"""Problems with the files of an image set, each with its remedy.

Knows nothing of how files are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model.errors import DatasetError

MAX_PROBLEMS_SHOWN = 10
"""The number of problems of one kind that are listed."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem. Problems with the same `remedy` are listed together."""

    text: str
    remedy: str


class BrokenSample(DatasetError):
    """An image and its mask cannot be used. Has all their problems."""

    def __init__(self, *problems: Problem | str) -> None:
        """PyTorch raises the error of a loader process anew, with its traceback as a string."""
        self.problems = tuple(map(_read_report, problems))
        super().__init__("; ".join(f"{p.text}. {p.remedy}" for p in self.problems))


def _read_report(problem: Problem | str) -> Problem:
    """Read a problem from the last line of a traceback that ends with a BrokenSample."""
    if isinstance(problem, Problem):
        return problem
    last = problem.strip().splitlines()[-1]
    text, _, remedy = last.partition(f"{BrokenSample.__name__}: ")[2].rpartition(". ")
    return Problem(text or last, remedy)


def require_sound(broken: Sequence[BrokenSample], *, name: str, samples: int) -> None:
    """Raises DatasetError that lists everything, by kind, unless `broken` is empty."""
    if not broken:
        return
    by_remedy: dict[str, list[str]] = {}
    for error in broken:
        for problem in error.problems:
            by_remedy.setdefault(problem.remedy, []).append(problem.text)
    lines = [f"{len(broken)} of {samples} samples of the image set {name!r} are broken:"]
    for remedy, texts in by_remedy.items():
        more = len(texts) - MAX_PROBLEMS_SHOWN
        lines += [f"  {text}" for text in texts[:MAX_PROBLEMS_SHOWN]]
        lines += [f"  and {more} more of this kind"] if more > 0 else []
        lines.append(f"  -> {remedy}")
    raise DatasetError("\n".join(lines))
