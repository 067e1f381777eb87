"""Builds the repository into one installed package, `fcn_service`, with steps of setuptools.

In the repository, `app` and `model` are top-level packages. In an installation, other packages are
likely to have these names. So the wheel has both inside `fcn_service`, and their imports are
rewritten: `from app.errors import X` becomes `from fcn_service.app.errors import X`. The installed
package is plain code; nothing is rewritten when it is imported.

pyproject.toml names this file as the build backend, and its classes as steps of setuptools. There
is no editable installation, because its imports could not be rewritten. Work in the repository,
where `python -m app.cli` is `fcn`.
"""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools.build_meta import (
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_wheel,
)
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist
from setuptools.errors import ExecError

__all__ = [
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_wheel",
]

PACKAGE = "fcn_service"
MOVED = ("app", "model")
NATIVE = Path(PACKAGE, "model", "engines", "native")

COMMAND = re.compile(rf"(-m\s+)({'|'.join(MOVED)})\b")
"""A command such as `python -m app.keys` in a help text or message, even across a line end."""


def rewrite(source: str, name: str) -> str:
    """Return a module's source with imports of `app` and `model` rewritten for the installation.

    Raises ExecError for `import app.x`, because the name `app` does not exist there.
    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source, name)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in MOVED:
                    raise ExecError(f"{name}:{node.lineno}: write `from {alias.name} import ...`")
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module is not None
            if node.module.partition(".")[0] in MOVED:
                first = node.lineno - 1
                moved = f"from {PACKAGE}.{node.module}"
                lines[first] = lines[first].replace(f"from {node.module}", moved, 1)
    return COMMAND.sub(rf"\1{PACKAGE}.\2", "".join(lines))


class BuildPackage(build_py):
    """Copies the modules, rewrites them, and compiles the native engine beside its sources."""

    def finalize_options(self) -> None:
        """Find the subpackages of `app` and `model`."""
        self.distribution.packages = [PACKAGE]
        for folder in MOVED:
            found = sorted(path.parent for path in Path(folder).rglob("__init__.py"))
            names = [f"{PACKAGE}.{'.'.join(path.parts)}" for path in found]
            self.distribution.packages.extend(names)
        super().finalize_options()

    def run(self) -> None:
        root = Path(self.build_lib) / PACKAGE
        shutil.rmtree(root, ignore_errors=True)  # setuptools would keep files of an earlier build
        super().run()
        for path in sorted(root.rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            rewritten = rewrite(source, str(path))
            if rewritten != source:
                path.write_text(rewritten, encoding="utf-8")
        (root / Path(__file__).name).unlink(missing_ok=True)
        self._compile(Path(self.build_lib) / NATIVE)

    def _compile(self, folder: Path) -> None:
        """Compile for all processors of this family, and remove the sources from the wheel.

        Without a compiler the sources stay, and are compiled where the wheel is installed.
        """
        compiled = subprocess.run(  # noqa: S603
            [sys.executable, "-m", f"{PACKAGE}.model.engines.native.library"],
            cwd=self.build_lib,
            check=False,
        )
        if compiled.returncode == 0 and list(folder.glob("*.so")):
            for source in folder.glob("*.[ch]"):
                source.unlink()
        else:
            self.warn("the wheel has no native engine: the installed service needs a C compiler")

    def find_data_files(self, package: str, src_dir: str) -> list[str]:
        """Omit the libraries of the checkout, because the build compiles its own."""
        return [p for p in super().find_data_files(package, src_dir) if not p.endswith(".so")]


class BuildWheel(bdist_wheel):
    """Names the platform of a wheel with a compiled library that is not a Python extension."""

    def get_tag(self) -> tuple[str, str, str]:
        if not list((Path(self.bdist_dir) / NATIVE).glob("*.so")):
            return "py3", "none", "any"
        self.root_is_pure = False
        _, _, platform = super().get_tag()
        return "py3", "none", platform


class SourceDistribution(sdist):
    """Adds this file, which is needed to build from the sources."""

    def add_defaults(self) -> None:
        super().add_defaults()
        self.filelist.extend(str(path) for path in Path("deploy/package").glob("*.py"))
