"""Problems that the user can solve, and a check for optional packages."""

import importlib.util

from cpuattn._programs import missing_extra


class DemoError(Exception):
    """A problem with the request or the surroundings; its text says what to do."""


def require(*modules: str) -> None:
    """Check that the packages of the ``[demo]`` extra are installed.

    Parameters
    ----------
    *modules : str
        Names of top-level modules.

    Raises
    ------
    DemoError
        If one is missing; the message has the command that installs it.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise DemoError(missing_extra(", ".join(missing), "demo"))
