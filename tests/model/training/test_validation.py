import pytest

from model.training.validation import choose_interval


@pytest.mark.parametrize(
    ("trained", "validated", "epochs"),
    [(3785, 200, 1), (10582, 1449, 2), (1464, 1449, 14), (90, 10, 2), (1, 100, 1334), (100, 1, 1)],
)
def test_validations_take_a_twentieth_of_the_time_at_most(trained, validated, epochs):
    assert choose_interval(trained, validated) == epochs
