"""The command line `fcn`: one command for each task.

Each command imports what it needs when it runs, so that `fcn --help` is quick.
"""

ROOT = __name__.removesuffix("app.cli")
"""The prefix of module names: empty in the repository, `fcn_service.` in an installed package."""
