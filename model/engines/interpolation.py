"""Interpolates logits (C, rows, columns) between source pixels, for masks larger than the content.

A large mask has many pixels between the same source pixels. They are a run: its source pixels are
broadcast, where short runs gather them. Values are the same either way. Knows nothing of what the
logits become.
"""

from collections.abc import Iterator

import numpy as np

from model.engines.folding import Floats
from model.engines.tiles import Neighbours

PIXELS_AT_ONCE = 2**14
"""The pixels whose logits are interpolated at once, so that they stay in the cache."""

LONG_RUN = 16
"""The shortest run of pixels for which broadcasting along a row is faster than gathering."""


def stretch_columns(logits: Floats, columns: Neighbours) -> Floats:
    """Interpolate from the source columns to `columns`."""
    if columns.mean_run < LONG_RUN:
        left, right = (np.take(logits, part, axis=2) for part in (columns.first, columns.second))
        return _blend(left, right, columns.share, out=right)
    stretched = np.empty((*logits.shape[:2], len(columns.share)), np.float32)
    for run in columns.iterate_runs(len(columns.share)):
        left, right = (
            logits[..., part[run.start], None] for part in (columns.first, columns.second)
        )
        _blend(left, right, columns.share[run], out=stretched[..., run])
    return stretched


def iterate_rows(logits: Floats, rows: Neighbours) -> Iterator[tuple[slice, Floats]]:
    """Interpolate from the source rows to `rows`, some at a time: yield which, and their logits.

    The logits are in memory that the next ones overwrite.
    """
    classes, _, width = logits.shape
    most = max(1, PIXELS_AT_ONCE // width)
    scratch = np.empty(classes * most * width, np.float32)
    # Between short runs, a piece of several runs saves calls.
    has_long_runs = 4 * rows.mean_run >= most
    starts = range(0, len(rows.share), most)
    pieces = (slice(start, min(start + most, len(rows.share))) for start in starts)
    for piece in rows.iterate_runs(most) if has_long_runs else pieces:
        count = piece.stop - piece.start
        used = scratch[: classes * count * width]
        # The longer side is the inner loop.
        if width < count:
            out = used.reshape(classes, width, count).swapaxes(1, 2)
        else:
            out = used.reshape(classes, count, width)
        part = slice(piece.start, piece.start + 1) if has_long_runs else piece
        upper, lower = logits[:, rows.first[part]], logits[:, rows.second[part]]
        yield piece, _blend(upper, lower, rows.share[piece, None], out=out)


def _blend(first: Floats, second: Floats, share: Floats, *, out: Floats) -> Floats:
    """Compute first + (second - first) * share. `out` may be the memory of `second`."""
    np.multiply(second - first, share, out=out)
    out += first
    return out
