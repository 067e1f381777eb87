"""`fcn COMMAND`, or `python -m app.cli COMMAND`: finds the command and runs it.

Knows the names and purposes of the commands, and imports only the one that it runs.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from app import __version__
from app.cli import ROOT

OWN_PACKAGES = ("app", "model", "fcn_service")


@dataclass(frozen=True, slots=True)
class Command:
    """A command: the module whose `main` it runs, and its line in the help."""

    module: str
    purpose: str
    extra: str = "train"
    """The package's extra that installs what the command imports."""


COMMANDS: Mapping[str, Command] = {
    "segment": Command("app.cli.segment", "compute the masks of photos and folders of photos"),
    "bulk": Command(
        "app.cli.bulk", "compute the masks of any number of photos, also in S3", extra="bulk"
    ),
    "serve": Command(
        "app.__main__", "start the server, http://127.0.0.1:8000 unless told otherwise"
    ),
    "check": Command("app.cli.check", "check this installation, and report what is wrong"),
    "keys": Command("app.keys", "make an API key"),
    "train": Command("model.train", "train weights on Pascal VOC or on your own images"),
    "evaluate": Command("model.evaluate", "measure the mean IoU of weights"),
    "compare": Command("model.compare", "tell whether one weights file is better than another"),
    "convert": Command("model.convert", "turn a .pth file into a weights file"),
    "soup": Command("model.soup", "average the weights of several runs"),
    "card": Command("model.card", "describe a weights file"),
    "completion": Command("app.cli.completion", "print the completion script for bash or zsh"),
}

EXAMPLES = """\
examples:
  fcn serve                       serve the shipped weights
  fcn segment photo.jpg           write the mask of a photo to masks/photo.png
  fcn segment photos/ -o out/     ... of every photo in a folder; resumes after an interruption
  fcn segment photos/ --local     the same without a server
  fcn bulk s3://bucket/photos s3://bucket/masks
                                  ... of any number of photos, in constant memory
  fcn COMMAND --help              the options of a command
"""


def main() -> None:
    """Run the command that the arguments name; its own `main` parses the rest."""
    arguments = sys.argv[1:]
    command = COMMANDS.get(arguments[0]) if arguments else None
    if command is None:
        _explain(arguments)
        return
    sys.argv = [f"fcn {arguments[0]}", *arguments[1:]]
    try:
        run = import_module(ROOT + command.module).main
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in OWN_PACKAGES:
            raise
        sys.exit(
            f"error: fcn {arguments[0]} needs {error.name}, which is not installed here: "
            f"pip install 'fcn-segmentation-service[{command.extra}]'"
        )
    run()


def _explain(arguments: Sequence[str]) -> None:
    """Print the help or the version, or exit with an error for an unknown command."""
    names = "\n".join(f"  {name:<11}{command.purpose}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="fcn",
        usage="fcn COMMAND [OPTION ...]",
        description="Semantic segmentation of photos: serve it, use it, train it.",
        epilog=f"commands:\n{names}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    given = parser.parse_known_args(arguments)[1]
    if given:
        parser.error(f"no command {given[0]!r}: choose from {', '.join(COMMANDS)}")
    parser.print_help()


if __name__ == "__main__":
    main()
