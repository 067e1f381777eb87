"""The program, but every mask crashes with a message that imitates log lines."""

from app.__main__ import main
from app.tasks import segmentation

FORGED = "2026-01-01T00:00:00Z [info     ] forged"


def crash(*_, **__):
    raise RuntimeError(f"an error\n{FORGED}\x1b[2J\r{FORGED}\n" + "x" * 100_000)


if __name__ == "__main__":
    segmentation.make_answer = crash  # in requests, not in the check at the start
    main()
