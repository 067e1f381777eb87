"""The plan of a bulk run, stored in its output: its terms, and its photos part by part.

The list of photos is made once and stored, so that a part has the same photos after an
interruption. Knows nothing of masks.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice

from app.cli.storage import Storage, StorageError

FOLDER = "_bulk"
PLAN = f"{FOLDER}/plan.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The options that all results in one output have in common."""

    input: str
    format: str
    max_side: int | None
    weights: str
    """The digest of the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The terms, and the numbers of photos, in parts of equal size except the last."""

    terms: Terms
    photos: int
    part_photos: int

    @property
    def parts(self) -> int:
        """The number of parts."""
        return -(-self.photos // self.part_photos)

    def count(self, number: int) -> int:
        """Return the number of photos in a part."""
        return min(self.part_photos, self.photos - number * self.part_photos)


def has_plan(output: Storage) -> bool:
    """Return whether an earlier run has stored its plan in the output."""
    return output.exists(PLAN)


def open_plan(output: Storage, terms: Terms, *, photos: Iterable[str], part_photos: int) -> Plan:
    """Return the plan in the output, or make one of the photos. Raises StorageError.

    The plan itself is written last: if making the list was interrupted, it is made again.
    """
    if has_plan(output):
        return _read_plan(output, terms)
    _require_empty(output)
    count, number = 0, 0
    remaining = iter(photos)
    while part := list(islice(remaining, part_photos)):
        lines = "".join(json.dumps(photo) + "\n" for photo in part)
        output.write(_name_list(number), lines.encode())
        count, number = count + len(part), number + 1
    if not count:
        raise StorageError(f"no photos in {terms.input}")
    plan = Plan(terms=terms, photos=count, part_photos=part_photos)
    output.write(PLAN, json.dumps(asdict(plan), indent=2).encode())
    return plan


def read_part(output: Storage, number: int) -> list[str]:
    """Return the names of a part's photos."""
    return [json.loads(line) for line in output.read(_name_list(number)).splitlines()]


def _name_list(number: int) -> str:
    return f"{FOLDER}/photos/{number:06}.jsonl"


def _read_plan(output: Storage, terms: Terms) -> Plan:
    kept = json.loads(output.read(PLAN))
    plan = Plan(**kept | {"terms": Terms(**kept["terms"])})
    for name, wanted in asdict(terms).items():
        found = getattr(plan.terms, name)
        if found != wanted:
            raise StorageError(
                f"{output.url} has results of another run, with {name}={found} instead of "
                f"{wanted}: choose another output"
            )
    return plan


def _require_empty(output: Storage) -> None:
    others: Iterator[str] = iter(())
    if output.filesystem.isdir(output.root):
        others = (path for path in output.list_files() if not path.startswith(f"{FOLDER}/"))
    found = next(others, None)
    if found is not None:
        raise StorageError(f"{output.url} has other files, such as {found}: choose another output")
