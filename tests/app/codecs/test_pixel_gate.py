import threading

from app.codecs.pixel_gate import PixelGate


def enter(gate, pixels, cancelled=None):
    """A thread that enters the gate, an event for that, and a list for its result."""
    has_entered, results = threading.Event(), []

    def run():
        is_cancelled = cancelled.is_set if cancelled else lambda: False
        results.append(gate.enter(pixels, is_cancelled=is_cancelled))
        has_entered.set()

    thread = threading.Thread(target=run)
    thread.start()
    return thread, has_entered, results


def test_a_small_image_passes_a_large_one_that_waits():
    gate = PixelGate(100)
    assert gate.enter(90, is_cancelled=lambda: False)
    thread, has_entered, _ = enter(gate, 10)
    assert gate.enter(5, is_cancelled=lambda: False)
    assert not has_entered.is_set()
    gate.leave(90)
    assert has_entered.wait(60)
    thread.join()


def test_an_image_larger_than_the_limit_passes_alone():
    gate = PixelGate(100)
    assert gate.enter(500, is_cancelled=lambda: False)
    thread, has_entered, _ = enter(gate, 1)
    gate.leave(500)
    assert has_entered.wait(60)
    thread.join()


def test_a_cancelled_wait_counts_no_pixels():
    gate, cancelled = PixelGate(100), threading.Event()
    assert gate.enter(100, is_cancelled=lambda: False)
    thread, _, results = enter(gate, 60, cancelled)
    cancelled.set()
    gate.wake()
    thread.join(60)
    assert results == [False]
    gate.leave(100)
    assert gate.enter(100, is_cancelled=lambda: False)
