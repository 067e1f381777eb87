"""The program, but whatever is decoded never is: its thread can be ended by nothing."""

import threading

import structlog

from app import images
from app.__main__ import main


def hang(*_, **__):
    structlog.get_logger("segmentation").info("decoding")
    threading.Event().wait()


if __name__ == "__main__":
    images.decode = hang
    main()
