from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry, Gauge

from app.errors import Overloaded
from app.scheduling.budget import Budget, ShareEnded


def budget(limit=100):
    gauge = Gauge("held", "what is held", registry=CollectorRegistry())
    return Budget(
        limit, unit="bytes", reason="bytes", gauge=gauge
    ), lambda: gauge.collect()[0].samples[0].value


def test_an_ended_share_cannot_take_more():
    shared, held = budget()
    with shared.share() as share:
        share.take(60)
    assert held() == 0
    for amount in (0, 1):
        with pytest.raises(ShareEnded):
            share.take(amount)
    with pytest.raises(ShareEnded):
        share.keep()
    assert held() == 0


def test_large_requests_leave_room_for_small_ones():
    shared, held = budget()
    with ExitStack() as stack:
        stack.enter_context(shared.share()).take(40)
        for most in (30, 15, 7, 4, 2, 1):
            share = stack.enter_context(shared.share())
            with pytest.raises(Overloaded):
                share.take(most + 1)
            share.take(most)
        assert held() == 99


@pytest.mark.parametrize("amount", [7, 10, 24, 25, 33])
def test_as_many_amounts_fit_as_the_budget_counts(amount):
    shared, _ = budget()
    with ExitStack() as stack:
        for _ in range(shared.count_fitting(amount)):
            stack.enter_context(shared.share()).take(amount)
        with pytest.raises(Overloaded):
            stack.enter_context(shared.share()).take(amount)


@pytest.mark.parametrize("amount", [51, 100, 150])
def test_an_amount_that_is_allowed_only_alone_does_not_fit(amount):
    assert budget()[0].count_fitting(amount) <= 0


def test_a_single_request_may_exceed_the_budget():
    shared, held = budget()
    with shared.share() as share:
        share.take(150)
        assert held() == 150
        share.take(10)
        with shared.share() as another, pytest.raises(Overloaded):
            another.take(1)


def test_work_that_outlives_its_request_counts_until_it_ends():
    shared, held = budget()
    freed = []
    with shared.share(on_free=lambda: freed.append(held())) as share:
        share.take(60)
        share.keep()
    assert (held(), freed) == (60, [])
    with pytest.raises(ShareEnded):  # what it works with is counted; it takes no more
        share.take(1)
    with shared.share() as another, pytest.raises(Overloaded, match="already hold 60 bytes"):
        another.take(50)
    share.let_go()
    assert (held(), freed) == (0, [0])


def test_a_share_may_end_early_and_ends_once():
    shared, held = budget()
    with shared.share() as share:
        share.take(60)
        share.end()
        assert held() == 0
    assert held() == 0


def test_a_share_gives_back_what_a_bound_was_too_large_by():
    shared, held = budget()
    with shared.share() as share:
        share.take(60)
        share.give_back(50)
        assert held() == 10
        with pytest.raises(AssertionError):
            share.give_back(11)
    assert held() == 0


def test_releasing_a_share_too_often_is_a_bug():
    shared, _ = budget()
    with shared.share() as share:
        share.end()
        with pytest.raises(AssertionError):
            share.let_go()
