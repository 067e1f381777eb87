"""The order in which a head scales a mask: down over the canvas, with few of its rows in memory.

Knows only numbers of rows, nothing of logits.
"""

from collections.abc import Iterator

from model.engines.tiles import Neighbours, count_between

# The output rows that are listed with their source rows: a thin mask has millions.
ROWS_AT_ONCE = 2**16


class Sweep:
    """The source rows that a head keeps, and the output rows that it can already write."""

    def __init__(self, source: int, output: int, *, first_row: int) -> None:
        """Scale `source` rows to `output` rows. The head's first block begins at `first_row`."""
        self._source, self._output = source, output
        self._next_row = first_row
        self._top = 0  # the first source row that the head keeps
        self._written = 0

    def add(self, rows: int) -> slice:
        """Return which of the next block's rows are source rows, to be kept."""
        within = slice(max(0, -self._next_row), max(0, self._source - self._next_row))
        self._next_row += rows
        return within

    def list_ready(self) -> Iterator[tuple[slice, Neighbours]]:
        """Yield the output rows whose source rows are kept, with their neighbours among these."""
        known = min(self._next_row, self._source)
        ready = count_between(self._source, self._output, known=known)
        for start in range(self._written, ready, ROWS_AT_ONCE):
            part = slice(start, min(start + ROWS_AT_ONCE, ready))
            rows = Neighbours.between(self._source, self._output, start=part.start, stop=part.stop)
            yield part, rows.count_from(self._top)
        self._written = ready

    @property
    def is_complete(self) -> bool:
        return self._written == self._output

    def drop(self) -> int:
        """Return how many of the kept rows, from the top, no later output row needs."""
        row = self._written
        later = Neighbours.between(self._source, self._output, start=row, stop=row + 1)
        unused = int(later.first[0]) - self._top
        self._top += unused
        return unused
