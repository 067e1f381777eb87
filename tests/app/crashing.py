"""The program, but every mask crashes it with a text that would be log lines of its own."""

from app.__main__ import main
from app.routes import segmentation

FORGED = "2026-01-01T00:00:00Z [info     ] forged"


def crash(*_, **__):
    raise RuntimeError(f"an error\n{FORGED}\x1b[2J\r{FORGED}\n" + "x" * 100_000)


if __name__ == "__main__":
    segmentation.make_answer = crash  # of requests, not of the trial at the start
    main()
