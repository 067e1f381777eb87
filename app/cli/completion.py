"""`fcn completion bash`: prints the script with which a shell completes commands and options."""

import argparse

from app.cli.__main__ import COMMANDS

BASH = r"""
typeset -gA _fcn_options
_fcn() {
    local current="${COMP_WORDS[COMP_CWORD]}" command="${COMP_WORDS[1]}"
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "NAMES --help --version" -- "$current"))
        return
    fi
    case "$current" in
    -*)
        # The options are those in the command's help, which each shell runs once per command.
        if [ -z "${_fcn_options[$command]}" ]; then
            _fcn_options[$command]=$(fcn "$command" --help 2>/dev/null |
                grep -oE -- '--[a-z][a-z0-9-]+' | sort -u)
        fi
        COMPREPLY=($(compgen -W "${_fcn_options[$command]}" -- "$current"))
        ;;
    *) COMPREPLY=() ;; # the shell completes files
    esac
}
complete -o default -F _fcn fcn
"""

ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def main() -> None:
    """Print the completion script for a shell, which evaluates it."""
    parser = argparse.ArgumentParser(
        prog="fcn completion",
        description='Print a completion script. Add this line to ~/.bashrc: eval "$(fcn '
        'completion bash)". For zsh, add the same line with zsh to ~/.zshrc.',
        allow_abbrev=False,
    )
    parser.add_argument("shell", choices=("bash", "zsh"))
    shell = parser.parse_args().shell
    script = BASH.replace("NAMES", " ".join(COMMANDS)).lstrip()
    print((ZSH if shell == "zsh" else "") + script, end="")
