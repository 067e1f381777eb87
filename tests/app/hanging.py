"""The program, but whatever is decoded never is: its thread can be ended by nothing."""

import threading

import structlog

from app.__main__ import main
from app.codecs import decode


def hang(*_, **__):
    structlog.get_logger("segmentation").info("decoding")
    threading.Event().wait()


if __name__ == "__main__":
    decode.decode_image = hang
    main()
