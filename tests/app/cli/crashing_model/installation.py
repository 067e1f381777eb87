"""A check of an installation whose libraries end the process."""

import os
import signal

os.kill(os.getpid(), signal.SIGSEGV)
