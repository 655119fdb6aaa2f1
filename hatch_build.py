"""The compiled module of `dicomdl._kernels`, built beside its sources.

    python hatch_build.py             # in a checkout, for this interpreter and all newer ones

hatchling runs the same as a hook for wheels, editable ones too. The rule: what can be compiled is,
and without a compiler or Python's headers the wheel is the pure one, which works everywhere.

- ``DICOMDL_PURE=1`` builds the pure wheel.
- ``DICOMDL_KERNELS=required`` makes a failure an error, for machines that release.
- ``DICOMDL_SANITIZE=1`` adds the checks of AddressSanitizer and of undefined behaviour.
"""

import os
import re
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a script, where nothing is packed
    BuildHookInterface = object

ROOT = Path(__file__).parent
FOLDER = ROOT / "dicomdl/_kernels"
NAME = "dicomdl._kernels._compiled"
# Pointers to samples of several types may share memory; overflow of integers wraps.
UNIX_FLAGS = [
    *("-std=c11", "-O3", "-Wall", "-Wextra", "-fno-strict-aliasing", "-fvisibility=hidden"),
    "-pthread",
]
SANITIZE_FLAGS = [
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    *("-fno-omit-frame-pointer", "-g", "-O1"),
]


class CustomBuildHook(BuildHookInterface):
    """The hook of hatchling: compiles, and names the platform of the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the files of a wheel are collected."""
        del version
        built = build()
        if built is None:
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"cp311-abi3-{re.sub('[-.]', '_', sysconfig.get_platform())}"
        build_data["artifacts"].append(f"/{built.relative_to(ROOT).as_posix()}")


def build() -> Path | None:
    """Compile the module, and return its file; None where that cannot be done."""
    # No limited API without the interpreter lock (3.13t).
    has_no_lock = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    if os.environ.get("DICOMDL_PURE") == "1" or has_no_lock:
        return None
    try:
        with tempfile.TemporaryDirectory() as scratch:
            return _compiled(Path(scratch))
    # setuptools may be absent, a compiler absent or broken, headers absent: a class for each.
    except Exception:
        if os.environ.get("DICOMDL_KERNELS") == "required":
            raise
        return None


def _compiled(scratch: Path) -> Path:
    """Compile in a folder, and put the result beside the sources."""
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    flags = [] if sys.platform == "win32" else UNIX_FLAGS
    checks = SANITIZE_FLAGS if os.environ.get("DICOMDL_SANITIZE") == "1" else []
    extension = Extension(
        NAME,
        sorted(str(path) for path in FOLDER.glob("*.c")),
        include_dirs=[str(FOLDER)],
        define_macros=[("Py_LIMITED_API", "0x030B0000")],
        extra_compile_args=[*flags, *checks],
        extra_link_args=[*flags[-1:], *checks[:1]],
        py_limited_api=True,
    )
    command = build_ext(Distribution({"name": "dicomdl", "ext_modules": [extension]}))
    command.build_lib, command.build_temp = str(scratch / "lib"), str(scratch / "temp")
    command.ensure_finalized()
    command.run()
    made = Path(command.get_ext_fullpath(NAME))
    # In one step: processes may have the old file mapped.
    target, beside = FOLDER / made.name, FOLDER / f"{made.name}.new"
    beside.write_bytes(made.read_bytes())
    beside.chmod(0o755)
    return beside.replace(target)


if __name__ == "__main__":
    found = build()
    print("not compiled: the pure functions are used" if found is None else f"compiled: {found}")
