"""The program, but an exit handler waits forever, so that the interpreter never ends."""

import atexit
import threading

from app.__main__ import main

if __name__ == "__main__":
    atexit.register(threading.Event().wait)
    main()
