"""The process: sockets and connections, signals and the end, one worker or several."""
