"""Training on two machines: two launchers that connect as on two machines, with gloo."""

import csv
import os
import socket
import subprocess
import sys

import pytest

from model.training.checkpoint import read_checkpoint
from model.weights import read_metadata
from tests.conftest import REPOSITORY

OPTIONS = [
    *("--batch-size", "4", "--crop", "64", "64", "--workers", "0", "--backbone", "none"),
    *("--val-image-set", "none", "--freeze-statistics"),
]
"""Batch norms use their stored statistics. Otherwise each process would have its own statistics and
losses."""

LIMIT_S = 600

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}

DYING = """
import os, signal, sys
from model import train
from model.training.state import Training
train_step = Training.train_step
def die_at_step_4(training, *batch):
    if training.step == 4 and training.group.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return train_step(training, *batch)
Training.train_step = die_at_step_4
train.main(sys.argv[1:])
"""


def train_on_two_machines(program, *arguments):
    """Run two launchers with a process each, as on two machines. Returns their exit statuses."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    launcher = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"),
        *("--rdzv-id", "test", "--local-addr", "127.0.0.1"),
    ]
    environment = ENVIRONMENT | {"PYTHONPATH": str(REPOSITORY)}
    machines = [
        subprocess.Popen([*launcher, *program, *arguments], cwd=REPOSITORY, env=environment)
        for _ in range(2)
    ]
    try:
        return [machine.wait(LIMIT_S) for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
            machine.wait()


def read_column(path, name):
    with path.open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def test_two_machines_have_the_losses_of_one(voc_folder, tmp_path):
    arguments = ["--data", str(voc_folder), "--epochs", "2", "--preset", "d2l", *OPTIONS]
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    alone = [sys.executable, "-m", "model.train", *arguments, "--output", str(one)]
    subprocess.run(alone, cwd=REPOSITORY, env=ENVIRONMENT, check=True, timeout=LIMIT_S)
    program = ["-m", "model.train"]
    assert train_on_two_machines(program, *arguments, "--output", str(two)) == [0, 0]
    assert read_metadata(two).recipe["world_size"] == 2
    first, second = expected = read_column(one.with_suffix(".history.csv"), "loss")
    assert second < 0.95 * first, "otherwise equal losses say nothing of the steps"
    assert read_column(two.with_suffix(".history.csv"), "loss") == pytest.approx(expected, rel=1e-2)


def test_a_machine_that_dies_ends_the_run_which_then_resumes(voc_folder, tmp_path):
    dying = tmp_path / "dying.py"
    dying.write_text(DYING)
    output = tmp_path / "w.safetensors"
    arguments = ["--data", str(voc_folder), "--epochs", "2", "--output", str(output), *OPTIONS]
    statuses = train_on_two_machines([str(dying)], *arguments)
    assert 0 not in statuses, "both launchers report it, and neither waits for ever"
    assert read_checkpoint(output.with_suffix(".checkpoint.pt"))["step"] == 3
    assert not output.exists()
    program = ["-m", "model.train"]
    assert train_on_two_machines(program, *arguments, "--resume") == [0, 0]
    assert read_column(output.with_suffix(".steps.csv"), "step") == [1, 2, 3, 4, 5, 6]
    assert read_metadata(output).recipe["world_size"] == 2
