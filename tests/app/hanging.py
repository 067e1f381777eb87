"""The program, but decoding never ends, and nothing can end its thread."""

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
