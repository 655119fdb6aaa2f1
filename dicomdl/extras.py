"""Optional packages: each is imported at its first use, and an error says what to install."""

import importlib
from typing import Any

from dicomdl.errors import MissingExtra


def import_extra(module: str, feature: str, extra: str, package: str = "") -> Any:
    """Import an optional module.

    Parameters
    ----------
    module
        Name of the module, such as "matplotlib.pyplot".
    feature
        The function that needs it, for the message.
    extra
        The extra of dicomdl that installs it.
    package
        Name of the package on the index; by default the first part of `module`.

    Raises
    ------
    MissingExtra
        The package is not installed, or its import fails. The messages differ: an installed
        package fails beside another version of torch or NumPy, and installing it again may not
        help.
    """
    package = package or module.partition(".")[0]
    try:
        return importlib.import_module(module)
    # torchvision raises a RuntimeError if it does not fit the build of torch.
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and _names(error.name, module):
            raise missing_extra(feature, package, extra) from error
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MissingExtra(
            f"{feature} needs the package {package}, which is installed, but its import failed: "
            f"{type(error).__name__}: {words}",
            package=package,
            extra=extra,
        ) from error


def missing_extra(feature: str, package: str, extra: str) -> MissingExtra:
    """Return the error for an absent optional package, with the command that installs it."""
    return MissingExtra(
        f"{feature} needs the package {package}, which is not installed: "
        f"pip install 'dicomdl[{extra}]'",
        package=package,
        extra=extra,
    )


def _names(absent: str | None, module: str) -> bool:
    """Whether the absent module is the wanted one, or a package around it."""
    return absent is not None and f"{module}.".startswith(f"{absent}.")
