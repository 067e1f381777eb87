"""The program, but the interpreter's end never comes: what is registered with it waits for ever."""

import atexit
import threading

from app.__main__ import main

if __name__ == "__main__":
    atexit.register(threading.Event().wait)
    main()
