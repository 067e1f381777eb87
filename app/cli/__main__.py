"""`fcn COMMAND`, or `python -m app.cli COMMAND`: find the command and run it.

Knows the commands' names and what they are for, and imports none before it is chosen.
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
    """A command: the module whose `main` it runs, and a line for the help."""

    module: str
    purpose: str
    extra: str = "train"
    """The extra of the package that brings what it imports."""


COMMANDS: Mapping[str, Command] = {
    "segment": Command("app.cli.segment", "compute the masks of photos and folders of photos"),
    "bulk": Command(
        "app.cli.bulk", "compute the masks of any number of photos, also of S3", extra="bulk"
    ),
    "serve": Command(
        "app.__main__", "start the server, http://127.0.0.1:8000 unless told otherwise"
    ),
    "check": Command("app.cli.check", "look at this installation, and say what is wrong with it"),
    "keys": Command("app.keys", "make an API key"),
    "train": Command("model.train", "train weights on Pascal VOC or on your own images"),
    "evaluate": Command("model.evaluate", "measure the mean IoU of weights"),
    "compare": Command("model.compare", "tell whether one weights file is better than another"),
    "convert": Command("model.convert", "turn a .pth file into a weights file"),
    "card": Command("model.card", "describe a weights file"),
    "completion": Command("app.cli.completion", "print the completion for bash or zsh"),
}

EXAMPLES = """\
examples:
  fcn serve                       serve the shipped weights
  fcn segment photo.jpg           the mask of a photo: masks/photo.png
  fcn segment photos/ -o out/     of every photo in a folder; goes on where it was interrupted
  fcn segment photos/ --local     the same without a server
  fcn bulk s3://bucket/photos s3://bucket/masks
                                  of any number of photos, in constant memory
  fcn COMMAND --help              the options of a command
"""


def main() -> None:
    """Run the command that the arguments name; its own `main` reads the rest."""
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
    """Print the help or the version, or end with what is wrong with the command."""
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
