"""The process: sockets and connections, signals and shutdown, one worker or several."""
