"""The error for a library that is installed only with an extra."""

from __future__ import annotations

from tinyunet.errors import OptionError


def not_installed(library: str, extra: str, what: str) -> OptionError:
    """Return the error for a library that is missing.

    Parameters
    ----------
    library, extra : str
    what : str
        What the library does, as the beginning of a sentence: "ND2 files are read".
    """
    return OptionError(f"{what} by {library}, which is not installed", remedy=f"pip install -e '.[{extra}]'")
