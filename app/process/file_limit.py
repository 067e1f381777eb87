"""The process' limit of open files, which bounds its connections."""

import resource

import structlog

FILES_BESIDE_CONNECTIONS = 128

log = structlog.get_logger("segmentation")


def raise_file_limit(connections: int) -> None:
    """Raise the limit for so many open connections, as far as the system's hard limit permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + FILES_BESIDE_CONNECTIONS
    if soft < wanted:
        wanted = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        if wanted < connections + FILES_BESIDE_CONNECTIONS:
            log.warning("fewer files than connections", files=wanted, connections=connections)
