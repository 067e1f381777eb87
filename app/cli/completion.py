"""`fcn completion bash`: what a shell needs to complete the commands and their options."""

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
        # The options are those that the command's help names, asked for once in each shell.
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
    """Print the script of a shell, to be evaluated by it."""
    parser = argparse.ArgumentParser(
        prog="fcn completion",
        description='Print a script for a shell. Put this into ~/.bashrc: eval "$(fcn completion '
        'bash)", and for zsh the same with zsh into ~/.zshrc.',
        allow_abbrev=False,
    )
    parser.add_argument("shell", choices=("bash", "zsh"))
    shell = parser.parse_args().shell
    script = BASH.replace("NAMES", " ".join(COMMANDS)).lstrip()
    print((ZSH if shell == "zsh" else "") + script, end="")
