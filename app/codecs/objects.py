"""Writes the JSON of a mask's classes as COCO's run-length encoding or as polygons like GeoJSON's.

Both omit index 0, the background. Knows nothing of HTTP.
"""

from collections.abc import Iterator

import orjson

from app.codecs.polygons import ClassPolygons, Ring, trace_polygons
from app.codecs.runs import encode_runs
from model.engines.base import Array
from model.weights import Metadata


def encode_rle(mask: Array, metadata: Metadata) -> bytes:
    """Return the JSON of the runs of each class in a mask (H, W); see `RunLengths`."""
    height, width = mask.shape
    return orjson.dumps(
        {
            "height": height,
            "width": width,
            "segments": [
                {
                    "index": runs.index,
                    "name": metadata.classes[runs.index],
                    "pixels": runs.pixels,
                    "bbox": runs.box,
                    "segmentation": {"size": (height, width), "counts": runs.counts},
                }
                for runs in encode_runs(mask)
            ],
            "weights": metadata.digest,
        }
    )


def encode_polygons(mask: Array, metadata: Metadata) -> bytes:
    """Return the JSON of the polygons of each class; see `Polygons`. Raises TooCostly."""
    height, width = mask.shape
    head = {"type": "FeatureCollection", "height": height, "width": width}
    tail = {"weights": metadata.digest}
    features = b",".join(
        b"".join(_write_feature(traced, metadata.classes[traced.index]))
        for traced in trace_polygons(mask)
    )
    head_text, tail_text = orjson.dumps(head)[:-1], orjson.dumps(tail)[1:]
    return b"".join((head_text, b',"features":[', features, b"],", tail_text))


def _write_feature(traced: ClassPolygons, name: str) -> Iterator[bytes]:
    properties = {"index": traced.index, "name": name, "pixels": traced.pixels}
    yield orjson.dumps({"type": "Feature", "properties": properties})[:-1]
    yield b',"geometry":{"type":"MultiPolygon","coordinates":['
    for number, rings in enumerate(traced.polygons):
        yield b"," if number else b""
        # One polygon at a time, because orjson holds the interpreter's lock for a whole call.
        yield orjson.dumps([_close(ring) for ring in rings])
    yield b"]}}"


def _close(ring: Ring) -> list[list[int]]:
    """Return the ring with its first corner repeated at the end, as in GeoJSON."""
    corners: list[list[int]] = ring.tolist()
    return [*corners, corners[0]]
