"""Several workers and their supervisor, as callers and orchestrators see them."""

import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import httpx
import pytest
from prometheus_client import ProcessCollector

from app.observability.peers import Peers
from tests.app.conftest import metric
from tests.app.faulty import STUCK, command
from tests.app.gated import AT_THE_GATE, let_through, make_gates
from tests.app.test_program import descendants, logged, program
from tests.conftest import PHOTO, REPOSITORY

CALLERS = 24
BODY = PHOTO.read_bytes()


def begun(stack, address, count=CALLERS):
    """Requests whose heads have been read, as "100 Continue" proves. The test sends the bodies."""
    address = httpx.URL(address)
    head = (
        f"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n"
        "Expect: 100-continue\r\n\r\n"
    )
    connections = []
    for _ in range(count):
        connection = socket.create_connection((address.host, address.port), timeout=60)
        connections.append(stack.enter_context(connection))
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 100")
    return connections


def finished(connection):
    connection.sendall(BODY)
    return b"".join(iter(partial(connection.recv, 65536), b""))


def several(weights_file, **variables):
    variables = {"workers": 2, "threads": 1, "operations_port": 0, "log_format": "json"} | variables
    return program(weights=weights_file, port=0, device="cpu", **variables)


def both_ready(process):
    logged(process, "ready")
    return logged(process, "ready")


@pytest.mark.parametrize("numbers", [[signal.SIGINT], [signal.SIGTERM, signal.SIGINT]])
def test_ctrl_c_in_a_terminal_loses_no_accepted_request(weights_file, numbers):
    """A terminal sends it to the whole process group, and the supervisor signals its workers."""
    with several(weights_file) as process, ExitStack() as stack:
        ready = both_ready(process)
        connections = begun(stack, ready["address"])
        for number in numbers:
            os.killpg(process.pid, number)
        for _ in range(2):
            logged(process, "Shutting down")
        with ThreadPoolExecutor(CALLERS) as threads:
            answers = list(threads.map(finished, connections))
        assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * CALLERS
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()


def test_a_second_ctrl_c_ends_it_at_once(weights_file):
    with several(weights_file, drain_timeout_s=3600) as process, ExitStack() as stack:
        ready = both_ready(process)
        workers = descendants(process.pid)
        begun(stack, ready["address"], 4)
        os.killpg(process.pid, signal.SIGINT)
        for _ in range(2):
            logged(process, "Shutting down")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 1
        assert not [pid for pid in workers if os.path.exists(f"/proc/{pid}")]
        assert "Traceback" not in process.stderr.read()


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def test_a_worker_takes_requests_when_it_is_warm_and_not_before(
    weights_file, tmp_path, monkeypatch
):
    for name, value in make_gates(tmp_path, "1", "2").items():
        monkeypatch.setenv(name, value)
    port, operations_port = free_port(), free_port()
    url, operations = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{operations_port}"
    settings = {"port": port, "operations_port": operations_port, "workers": 2, "threads": 1}

    def masks(count=20):
        return {
            httpx.post(f"{url}/v1/segment", content=BODY, timeout=60).status_code
            for _ in range(count)
        }

    def probes(path, count=10):
        """Each on its own connection, which another process may accept."""
        return {httpx.get(operations + path, timeout=60).status_code for _ in range(count)}

    with program(
        module="tests.app.gated", weights=weights_file, device="cpu", log_format="json", **settings
    ) as process:
        workers = [logged(process, "worker started")["worker"] for _ in range(2)]
        for _ in range(2):
            logged(process, AT_THE_GATE)
        assert probes("/health/live") == {200}
        assert probes("/health/ready") == {503}
        assert httpx.get(f"{operations}/health/ready").json() == {"status": "loading"}
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=60)

        let_through(tmp_path, "1")
        logged(process, "ready")
        assert masks() == {200}
        assert probes("/health/ready") == {200}

        let_through(tmp_path, "2")
        logged(process, "ready")
        os.kill(workers[1], signal.SIGKILL)
        logged(process, AT_THE_GATE)
        assert masks() == {200}
        assert probes("/health/ready") == {200}
        assert probes("/health/live") == {200}

        let_through(tmp_path, "2")
        logged(process, "ready")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()


def test_a_killed_worker_loses_only_its_own_requests(weights_file):
    callers, each = 4, 12
    with several(weights_file) as process, ThreadPoolExecutor(callers) as threads:
        address = both_ready(process)["address"]
        victim = int(descendants(process.pid)[0])

        def ask(number):
            """One after the other, each on a new connection."""
            seen = []
            for turn in range(each):
                if (number, turn) == (0, each // 4):
                    os.kill(victim, signal.SIGKILL)
                try:
                    answer = httpx.post(f"{address}/v1/segment", content=BODY, timeout=60)
                    seen.append(answer.status_code)
                except httpx.TransportError as error:
                    seen.append(type(error).__name__)
            return seen

        seen = [status for caller in threads.map(ask, range(callers)) for status in caller]
        answered = [status for status in seen if isinstance(status, int)]
        assert set(answered) == {200}, seen
        assert len(seen) - len(answered) <= callers, "no more than it was working on"
        assert "ConnectError" not in seen


def test_a_stuck_worker_accepts_no_connections(weights_file):
    settings = {"stuck_after_s": 5, "workers": 2, "threads": 1, "operations_port": 0}
    with (
        program(
            module="tests.app.faulty",
            **settings, weights=weights_file, port=0, device="cpu", log_format="json",
        ) as process,
        ThreadPoolExecutor() as threads,
    ):  # fmt: skip
        ready = both_ready(process)
        answer = threads.submit(
            httpx.post, f"{ready['address']}/v1/segment", content=command(STUCK), timeout=60
        )
        logged(process, "stuck")
        assert answer.result().status_code == 500
        for _ in range(10):
            masked = httpx.post(
                f"{ready['address']}/v1/segment", content=command((10, 200, 30)), timeout=60
            )
            assert masked.status_code == 200
            for path in ("live", "ready"):
                probe = httpx.get(f"{ready['operations']}/health/{path}", timeout=60)
                assert probe.status_code == 200, "the other one serves"
        assert logged(process, "worker ended")["status"] == 70


def test_each_process_is_measured(weights_file):
    with several(weights_file) as process:
        operations = both_ready(process)["operations"]
        pids = {"supervisor": process.pid}
        pids |= {f"worker-{i}": int(pid) for i, pid in enumerate(descendants(process.pid), 1)}
        text = httpx.get(f"{operations}/metrics").text
        for name, pid in pids.items():
            of_the_system = {
                sample.name: sample.value
                for family in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect()
                for sample in family.samples
            }
            shown = {
                metric_name: metric(text, f'{metric_name}{{process="{name}"}}')
                for metric_name in of_the_system
            }
            for unchanging in ("process_start_time_seconds", "process_max_fds"):
                assert shown[unchanging] == of_the_system[unchanging]
            assert 0 < shown["process_open_fds"] < shown["process_max_fds"]
            assert 0 < shown["process_resident_memory_bytes"] < 2**32
            assert shown["process_cpu_seconds_total"] <= of_the_system["process_cpu_seconds_total"]
        assert len(re.findall("^# TYPE process_start_time_seconds gauge$", text, re.M)) == 1


def test_an_environment_variable_alone_shares_no_metrics():
    script = "from app.observability.metrics import Metrics; print(Metrics().export().decode())"
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": "/nothing"}
    text = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert metric(text, "process_resident_memory_bytes") > 0
    assert metric(text, "seg_ready") == 0


def test_peers_know_which_worker_takes_requests(tmp_path):
    supervisor = Peers.create(tmp_path, workers=2)
    first, second = Peers(tmp_path, 1), Peers(tmp_path, 2)
    supervisor.assign(1, 1001)
    supervisor.assign(2, 1002)
    assert not second.some_take_requests
    first.take_requests(True)
    assert second.some_take_requests
    assert second.pids == {"supervisor": os.getpid(), "worker-1": 1001, "worker-2": 1002}
    supervisor.assign(1, 0)
    assert not second.some_take_requests
    assert second.pids == {"supervisor": os.getpid(), "worker-2": 1002}
    first.take_requests(True)
    supervisor.take_requests(False)
    assert second.are_draining
    assert not second.some_take_requests


def test_peers_tell_engine_processes_from_workers(tmp_path):
    supervisor = Peers.create(tmp_path, workers=1, engines=2)
    for number in (1, 2, 3):
        supervisor.assign(number, 1000 + number)
    names = {"worker-1": 1001, "engine-0": 1002, "engine-1": 1003}
    assert Peers(tmp_path, 1).pids == {"supervisor": os.getpid(), **names}
