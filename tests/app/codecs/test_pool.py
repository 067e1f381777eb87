"""The number of codec threads."""

import pytest

from app.codecs.pool import THREADS_ON_CPU, count_codec_threads
from app.settings import Settings


@pytest.mark.parametrize(("cores", "workers", "threads"), [(1, 1, 2), (16, 1, 16), (16, 4, 4)])
def test_beside_a_gpu_the_codecs_have_all_cores(monkeypatch, cores, workers, threads):
    monkeypatch.setattr("app.codecs.pool.count_usable_cores", lambda: cores)
    settings = Settings(workers=workers)
    assert count_codec_threads(settings, has_gpu=True) == threads
    assert count_codec_threads(settings, has_gpu=False) == THREADS_ON_CPU
    on_cpu = settings.model_copy(update={"device": "cpu"})
    assert count_codec_threads(on_cpu, has_gpu=True) == THREADS_ON_CPU
    three = settings.model_copy(update={"codec_threads": 3})
    for has_gpu in (True, False):
        assert count_codec_threads(three, has_gpu=has_gpu) == 3
