"""The command line `fcn`: one command for each thing that people do.

Each command imports what it needs when it runs, so that `fcn --help` is quick.
"""

ROOT = __name__.removesuffix("app.cli")
"""Empty in the repository; in an installation, `fcn_service.`, which holds `app` and `model`."""
