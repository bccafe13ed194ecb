"""Compiles the decode loop with mypyc where that can be done; without a C compiler it runs interpreted.

Everything else about the package is in pyproject.toml. `make compile` renews the extensions in place.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))
from scheduler import compiled  # noqa: E402

# Types of libraries that are not there while the package is built count as unknown.
MYPY = ["--config-file=", "--follow-imports=silent", "--ignore-missing-imports", "--no-color-output"]


def can_compile() -> bool:
    """Return whether mypyc, a C compiler and Python's headers are there, and nobody forbids it."""
    if os.environ.get(compiled.SWITCH):
        return False
    try:
        import mypyc.build  # noqa: F401
    except ImportError:
        return False
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cl").split()[0]
    has_headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    return shutil.which(compiler) is not None and has_headers


class CompileOrLeave(build_ext):
    """Builds all extensions or none, and leaves the stamp that says of which sources."""

    def run(self) -> None:
        """Compile; what goes wrong is told and leaves an interpreted package."""
        sources = compiled.modules()
        digest = compiled.digest(sources.values())
        if self.inplace and not self.force and self._stands(digest):
            self._replace_extensions([])
            return
        if self.inplace:
            compiled.stamp().unlink(missing_ok=True)
        try:
            self._replace_extensions(self._mypyc([str(path.relative_to(ROOT)) for path in sources.values()]))
            super().run()
        except (Exception, SystemExit) as error:  # mypyc leaves with SystemExit
            print(f"warning: not compiled, the decode loop will run interpreted: {error}", file=sys.stderr)
            self._replace_extensions([])
            return
        folder = ROOT / "scheduler" if self.inplace else Path(self.build_lib, "scheduler")
        folder.joinpath(compiled.stamp().name).write_text(digest + "\n", encoding="ascii")

    def _stands(self, digest: str) -> bool:
        """Return whether what was built in place before is of these sources."""
        stamp = compiled.stamp()
        return stamp.is_file() and stamp.read_text(encoding="ascii").strip() == digest

    def _replace_extensions(self, extensions: list[Extension]) -> None:
        self.distribution.ext_modules = self.extensions = extensions
        if extensions:
            self.swig_opts = None  # else finalize_options would read its own result
            self.finalize_options()

    def _mypyc(self, paths: list[str]) -> list[Extension]:
        from mypyc.build import mypycify

        return mypycify(
            [*MYPY, *paths],
            debug_level="0",
            target_dir=str(Path(self.build_temp, "mypyc")),
            group_name=compiled.LIBRARY.removesuffix("__mypyc"),
        )


os.chdir(ROOT)
# One extension stands for all until they are built, for mypyc takes its time and setuptools asks often.
setup(
    ext_modules=[Extension(compiled.LIBRARY, sources=[])] if can_compile() else [],
    cmdclass={"build_ext": CompileOrLeave},
)
