"""Both servers compute the same masks, and every load becomes figures."""

import pytest

from benchmarks.connection import upload_request
from benchmarks.photos import SOURCE, make_photos
from benchmarks.process import (
    NAIVE_PATH,
    OUR_PATH,
    start_naive_server,
    start_our_server,
    start_worker,
)
from benchmarks.results import Load, Result
from benchmarks.server import MIN_EQUAL, Candidate, compare_masks, measure_engine
from benchmarks.server_figures import Measurements
from model.scaling import SERVED


def test_both_servers_compute_the_same_mask():
    """The photo is one that our server scales by default."""
    (photo,) = make_photos(1, (64, 2 * SERVED.unscaled_side))
    with start_our_server(max_side=0) as ours, start_naive_server() as naive:
        (equal,) = compare_masks(
            Candidate(ours.address, [upload_request(OUR_PATH, photo)]),
            Candidate(naive.address, [upload_request(NAIVE_PATH, photo)]),
        )
    assert equal >= MIN_EQUAL


def test_the_engine_alone_is_measured_in_a_process_of_its_own():
    with start_worker() as call:
        assert all(throughput > 0 for throughput in call(measure_engine, (SOURCE.read_bytes(),), 0))


def make_load(*seconds, status=200):
    timing = "decode;dur=1.0, inference;dur=5.0, encode;dur=1.0"
    results = [Result(status, s, s, server_timing=timing) for s in seconds]
    return Load(results, wall_s=10, client_cpu_s=1)


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    found = Measurements(callers=(1,), equal=[1.0, 0.5], engine=[(4, 8), (4, 8), (4, 8)])
    found.loads["ours", 1] = [make_load(0.01), make_load(0.5), make_load(0.25)]
    found.loads["naive", 1] = [make_load(0.02), make_load(0.5), make_load(1.0)]
    for kind in ("ping", "peak", "overload", "recovery"):
        found.loads["ours", kind] = [make_load(0.02)]
    found.loads["naive", "overload"] = [make_load(1, 1, status=503)]
    rows = {row["figure"]: row for row in found.list_rows()}
    images = rows["images/s, 1 caller"]
    assert (images["ours"], images["naive"]) == pytest.approx((4, 2))
    assert images["ours / other"] == pytest.approx(2)  # of 2, 1 and 4
    assert rows["equal pixels, worst photo"]["ours"] == "0.50000"
    busy = rows["images/s served to 1 callers, against the engine kept busy"]
    assert (busy["engine alone"], busy["ours / other"]) == pytest.approx((8, 4 / 8))
    assert rows["lone request, ms of inference"]["ours"] == 5
    besides = rows["lone request, ms besides decode, inference and encode"]
    assert besides["ours"] == pytest.approx(250 - 7)
    refused = "overload, 0.0 images/s offered: share refused (503)"
    assert (rows[refused]["ours"], rows[refused]["naive"]) == (0, 1)
    answered = "overload, 0.0 images/s offered: p50 of the answered, ms"
    assert rows[answered]["naive"] == ""  # nobody was answered
