"""The number of codec threads."""

import pytest

from app.codecs.pool import THREADS_ON_CPU, count_codec_threads


@pytest.mark.parametrize(("cores", "workers", "threads"), [(1, 1, 2), (16, 1, 16), (16, 4, 4)])
def test_beside_a_gpu_the_codecs_have_all_cores(monkeypatch, cores, workers, threads):
    monkeypatch.setattr("app.codecs.pool.count_usable_cores", lambda: cores)
    assert count_codec_threads(0, on_gpu=True, workers=workers) == threads
    assert count_codec_threads(0, on_gpu=False, workers=workers) == THREADS_ON_CPU
    for on_gpu in (True, False):
        assert count_codec_threads(3, on_gpu=on_gpu, workers=workers) == 3
