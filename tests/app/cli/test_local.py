"""The server that a command starts for itself."""

from app.cli.local import PATIENCE_S, adapt
from app.settings import Settings


def test_a_photo_does_not_fail_because_the_machine_is_busy():
    """Nobody waits for it as a caller of a server does."""
    adapted = adapt(Settings(stuck_after_s=0.1, deadline_s=1, rate_limit="1/hour", max_pixels=5000))
    assert adapted.deadline_s == adapted.stuck_after_s == PATIENCE_S
    assert adapted.rate_limit == ""
    assert adapted.max_pixels == 5000
