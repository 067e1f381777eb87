import os
import subprocess
import sys
import threading

import pytest

from app.scheduling.threads import NICENESS, start_work_threads


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere niceness is a process's")
def test_worker_threads_and_their_children_have_a_lower_priority():
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    with start_work_threads(1, "test") as threads:
        theirs = threads.submit(niceness).result()
        started = threads.submit(niceness_of_a_new_thread).result()
    assert niceness() == own
    assert theirs == started == min(19, own + NICENESS)


def niceness():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def niceness_of_a_new_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(niceness()))
    thread.start()
    thread.join()
    return found[0]


def test_glibcs_allocator_keeps_a_limited_number_of_heaps():
    """In its own process, because the limit on heaps cannot be undone."""
    script = (
        "import ctypes, threading\n"
        "from app.observability import allocator\n"
        "allocator.limit_kept_memory()\n"
        "allocator.give_back()\n"
        "libc = ctypes.CDLL(None)\n"
        "def work():\n"
        "    libc.malloc.restype = ctypes.c_void_p\n"
        "    libc.malloc(1000)\n"
        "    barrier.wait(30)\n"
        "barrier = threading.Barrier(9)\n"
        "threads = [threading.Thread(target=work) for _ in range(8)]\n"
        "[thread.start() for thread in threads]\n"
        "barrier.wait(30)\n"
        "[thread.join() for thread in threads]\n"
        "libc.malloc_stats()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    if "Arena" not in ended.stderr:
        pytest.skip("not GNU's C library")
    assert ended.stderr.count("Arena") <= 2
