"""Traces the outlines of each class of a mask as polygons along the edges of its pixels.

The polygons are exact: filling them gives the mask again. Contours of interpolated values, as
contourpy and scikit-image draw them, cut the corners. Pixels are connected at their sides; where
two touch only at a corner, a ring ends, so that no ring touches itself. Knows nothing of JSON or
HTTP.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.codecs.jsonmask import split
from app.errors import TooCostly
from model.engines.base import Array

MAX_CORNERS = 2**18
"""The limit of all outlines together. Masks of photos have a few thousand, noise two per pixel."""

PART_PIXELS = 2**17
"""The pixels that are searched for corners at a time."""

UPPER_LEFT, UPPER_RIGHT, LOWER_LEFT, LOWER_RIGHT = 1, 2, 4, 8
ALL = 15

OUTSIDE = 256
"""The value that stands for pixels outside of the mask."""

Integers = NDArray[np.int64]
Ring = NDArray[np.int32]
"""The corners (N, 2), x and y; the first is not repeated at the end."""

TO_RIGHT, TO_LEFT, DOWN, UP = range(4)

CORNERS = {
    LOWER_RIGHT: ((UP, TO_RIGHT),),
    LOWER_LEFT: ((TO_RIGHT, DOWN),),
    UPPER_LEFT: ((DOWN, TO_LEFT),),
    UPPER_RIGHT: ((TO_LEFT, UP),),
    ALL - LOWER_RIGHT: ((TO_LEFT, DOWN),),
    ALL - LOWER_LEFT: ((UP, TO_LEFT),),
    ALL - UPPER_LEFT: ((TO_RIGHT, UP),),
    ALL - UPPER_RIGHT: ((DOWN, TO_RIGHT),),
    UPPER_LEFT + LOWER_RIGHT: ((DOWN, TO_LEFT), (UP, TO_RIGHT)),
    UPPER_RIGHT + LOWER_LEFT: ((TO_LEFT, UP), (TO_RIGHT, DOWN)),
}
"""For each set of pixels around a corner that belong to the class, the directions in which its
outline comes and goes, with the class to the right of the outline as seen on the screen.
"""


@dataclass(frozen=True, slots=True)
class ClassPolygons:
    """The polygons of one class; each is its outer ring, followed by the rings of its holes."""

    index: int
    pixels: int
    polygons: list[list[Ring]]


@dataclass(frozen=True, slots=True)
class _Turns:
    """The turns of a class' outlines: their places, and the directions before and after them."""

    x: Integers
    y: Integers
    comes: Integers
    goes: Integers


def trace_polygons(mask: Array) -> Iterator[ClassPolygons]:
    """Yield the polygons of each class in a mask (H, W), in index order, without index 0.

    Raises TooCostly above MAX_CORNERS.
    """
    x, y, around = _find_vertices(mask)
    left = MAX_CORNERS
    for index in np.unique(around).tolist():
        if index in (0, OUTSIDE):
            continue
        turns = _find_turns(x, y, around == index)
        left -= len(turns.x)
        if left < 0:
            raise _make_too_costly()
        yield _trace_class(mask, index, turns)


def _find_vertices(mask: Array) -> tuple[Integers, Integers, Integers]:
    """Return x, y and the four pixels around each vertex that may be a corner.

    Vertex (y, x) is the upper left corner of pixel (y, x). Pixels outside the mask are OUTSIDE.
    """
    height, width = mask.shape
    found = []
    for rows, columns in split((height + 1, width + 1), PART_PIXELS):
        shape = rows.stop - rows.start + 1, columns.stop - columns.start + 1
        window = np.full(shape, OUTSIDE, np.int16)
        top, first = max(rows.start - 1, 0), max(columns.start - 1, 0)
        part = mask[top : rows.stop, first : columns.stop]
        y0, x0 = top - rows.start + 1, first - columns.start + 1
        window[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = part
        corners = window[:-1, :-1], window[:-1, 1:], window[1:, :-1], window[1:, 1:]
        upper_left, upper_right, lower_left, lower_right = corners
        differ = (upper_left != upper_right) | (upper_left != lower_left)
        differ |= upper_left != lower_right
        # A straight edge between two classes is no corner of either.
        differ &= ~((upper_left == upper_right) & (lower_left == lower_right))
        differ &= ~((upper_left == lower_left) & (upper_right == lower_right))
        at_y, at_x = np.nonzero(differ)
        around = np.stack([corner[differ] for corner in corners], axis=1)
        found.append((at_x + columns.start, at_y + rows.start, around))
        if sum(len(part[0]) for part in found) > MAX_CORNERS:
            raise _make_too_costly()
    x, y, around = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return x, y, around


def _make_too_costly() -> TooCostly:
    return TooCostly(
        f"The outlines in the mask have more than {MAX_CORNERS} corners.",
        remedy="Ask for format=rle, which takes any mask, or for fewer classes.",
    )


def _find_turns(x: Integers, y: Integers, own: NDArray[np.bool_]) -> _Turns:
    """Return the turns at the vertices; `own` (N, 4) says which pixels belong to the class."""
    codes = own @ np.array([UPPER_LEFT, UPPER_RIGHT, LOWER_LEFT, LOWER_RIGHT])
    parts = []
    for code, turns in CORNERS.items():
        at = np.flatnonzero(codes == code)
        for comes, goes in turns:
            parts.append((x[at], y[at], np.full(len(at), comes), np.full(len(at), goes)))
    return _Turns(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _trace_class(mask: Array, index: int, turns: _Turns) -> ClassPolygons:
    followers, edges = _link(turns)
    order, lengths = _follow(turns, followers)
    ends = np.cumsum(lengths, dtype=np.int64)
    points = np.stack((turns.x[order], turns.y[order]), axis=1).astype(np.int32)
    rings = np.split(points, ends[:-1])
    areas = _measure_areas(points, ends - np.array(lengths), ends)
    ring_of = np.empty(len(order), np.int64)
    ring_of[order] = np.repeat(np.arange(len(lengths)), lengths)
    outer = {number: [rings[number]] for number in np.flatnonzero(areas > 0).tolist()}
    owner = {number: number for number in outer}
    finder = _RingFinder(mask, index, edges, ring_of)
    holes = [(*min(rings[n].tolist()), n) for n in np.flatnonzero(areas < 0).tolist()]
    # From left to right, because the ring to the left of a hole may be another hole.
    for x, y, number in sorted(holes):
        owner[number] = owner[finder.find_ring_left_of(x, y)]
        outer[owner[number]].append(rings[number])
    return ClassPolygons(index, int(areas.sum()) // 2, list(outer.values()))


def _link(turns: _Turns) -> tuple[Integers, tuple[Integers, Integers, Integers]]:
    """Return the turn that follows each turn, and the vertical edges: x, upper y, first turn.

    The edges on one line do not overlap. So if their ends are sorted, the first left end belongs to
    the first right end, and so on.
    """
    followers = np.empty(len(turns.x), np.int64)
    height, width = int(turns.y.max()) + 1, int(turns.x.max()) + 1
    by_row, by_column = turns.y * width + turns.x, turns.x * height + turns.y
    extends_right = (turns.goes == TO_RIGHT) | (turns.comes == TO_LEFT)
    extends_left = (turns.goes == TO_LEFT) | (turns.comes == TO_RIGHT)
    extends_down = (turns.goes == DOWN) | (turns.comes == UP)
    extends_up = (turns.goes == UP) | (turns.comes == DOWN)
    lefts, rights = _sort(extends_right, by_row), _sort(extends_left, by_row)
    upper, lower = _sort(extends_down, by_column), _sort(extends_up, by_column)
    for first, last, forward in ((lefts, rights, TO_RIGHT), (upper, lower, DOWN)):
        goes_forward = turns.goes[first] == forward
        followers[np.where(goes_forward, first, last)] = np.where(goes_forward, last, first)
    starts = np.where(turns.goes[upper] == DOWN, upper, lower)
    return followers, (turns.x[upper], turns.y[upper], starts)


def _sort(chosen: NDArray[np.bool_], key: Integers) -> Integers:
    at = np.flatnonzero(chosen)
    return at[np.argsort(key[at], kind="stable")]


def _follow(turns: _Turns, followers: Integers) -> tuple[list[int], list[int]]:
    """Return the turns in the order of the rings, and the rings' lengths.

    No ring visits a vertex twice: where an outline does so, a ring ends.
    """
    width = int(turns.x.max()) + 1
    vertices = (turns.y * width + turns.x).tolist()
    following = followers.tolist()
    is_done = bytearray(len(vertices))
    order: list[int] = []
    lengths: list[int] = []
    for turn in range(len(vertices)):
        path: list[int] = []
        places: dict[int, int] = {}
        while not is_done[turn]:
            is_done[turn] = 1
            vertex = vertices[turn]
            place = places.get(vertex)
            if place is not None:
                ring = path[place:]
                order += ring
                lengths.append(len(ring))
                for visited in ring:
                    del places[vertices[visited]]
                del path[place:]
            places[vertex] = len(path)
            path.append(turn)
            turn = following[turn]
        if path:
            order += path
            lengths.append(len(path))
    return order, lengths


def _measure_areas(points: Ring, starts: Integers, ends: Integers) -> Integers:
    """Return twice the area of each ring: positive for an outer one, negative for a hole."""
    x, y = points.T.astype(np.int64)
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = starts
    areas: Integers = np.add.reduceat(x * y[following] - x[following] * y, starts)
    return areas


class _RingFinder:
    """Finds the ring that bounds the pixels to the left of a hole."""

    def __init__(
        self,
        mask: Array,
        index: int,
        edges: tuple[Integers, Integers, Integers],
        ring_of: Integers,
    ) -> None:
        self._mask = mask
        self._index = index
        x, y, starts = edges
        self._height = mask.shape[0] + 1
        self._keys = x * self._height + y
        self._rings = ring_of[starts]

    def find_ring_left_of(self, x: int, y: int) -> int:
        """Return the number of the ring for the hole whose leftmost edge goes down from (x, y)."""
        others = np.flatnonzero(self._mask[y, :x] != self._index)
        edge_x = int(others[-1]) + 1 if len(others) else 0
        edge = np.searchsorted(self._keys, edge_x * self._height + y, side="right") - 1
        return int(self._rings[edge])
