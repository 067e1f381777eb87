from datetime import timedelta

import torch
from torch import distributed

from model.training.distributed import join_group


def test_processes_wait_for_hours_while_the_main_one_downloads(monkeypatch):
    found = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed, "init_process_group", lambda _, **given: found.update(given))
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: None)
    with join_group("cpu") as group:
        assert (group.rank, group.world_size, group.device) == (1, 2, torch.device("cpu"))
    assert found["timeout"] > timedelta(hours=3)
