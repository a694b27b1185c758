"""The channel and the plane that are read of a file that has several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyunet.errors import DataError, OptionError, first_names

ALL = "all"  # in place of a channel: each is a channel of the image
LISTED = 12  # channels, at most, that a message names


@dataclass(frozen=True)
class PlaneChoice:
    """The channel and the plane to read.

    Parameters
    ----------
    channel : int or str, optional
        Number, from 0, or name; "all" for all channels, each of which is then one of the image.
    z : int, optional
        Number of the plane, from 0.
    trained : PlaneChoice, optional
        That of the network's training: it counts for what is not chosen, in files that have several.
    in_channels : int
        Channels that the network takes: a file of so many is read with all of them if nothing is chosen.

    Raises
    ------
    OptionError
        A number is negative.
    """

    channel: int | str | None = None
    z: int | None = None
    trained: PlaneChoice | None = None
    in_channels: int = 0

    def __post_init__(self) -> None:
        for name, value in (("channel", self.channel), ("z", self.z)):
            if isinstance(value, int) and value < 0:
                raise OptionError(f"{name} is {value}, expected at least 0")

    def channel_for(self, path: Path, count: int, names: Sequence[str] = ()) -> int | None:
        """Return the number of the channel to read of so many; None for all of them, or if nothing says.

        Raises
        ------
        DataError
            No channel has this number or name, or several have this name.
        """
        wanted = self.channel
        if wanted is None and count > 1 and self.trained:
            wanted = self.trained.channel
            if isinstance(wanted, str) and not any(names):
                wanted = None  # a file whose channels have no names
        return None if wanted is None or wanted == ALL else _number(path, wanted, count, names)

    def z_for(self, path: Path, count: int) -> int | None:
        """Return the number of the plane to read of so many; None if nothing says.

        Raises
        ------
        DataError
            No plane has this number.
        """
        wanted = self.z
        if wanted is None and count > 1 and self.trained:
            wanted = self.trained.z
        if wanted is not None and wanted >= count:
            raise DataError(
                f"{path}: there is no plane {wanted}",
                {"planes": _range(count)},
                "give --z one of these numbers",
            )
        return wanted

    def takes_all_of(self, count: int) -> bool:
        """Return whether all of so many channels are read: one, those of the network, or as chosen."""
        wanted = self.channel if self.channel is not None or not self.trained else self.trained.channel
        return count == 1 or wanted == ALL or (wanted is None and count == self.in_channels)


NO_CHOICE = PlaneChoice()


def choose(
    path: Path, sizes: Mapping[str, int], names: Sequence[str], choice: PlaneChoice, *, colours: bool
) -> dict[str, int]:
    """Choose the index along the axes c and z of a file.

    Parameters
    ----------
    path : Path
    sizes : mapping of str to int
        Length of each axis.
    names : sequence of str
        Those of the channels; "" where one has none.
    choice : PlaneChoice
    colours : bool
        The channels are the colours of one picture, all of which are read if nothing is chosen.

    Returns
    -------
    dict of str to int
        Without c if all channels are read.

    Raises
    ------
    DataError
        There are several channels or planes and nothing says which; or there is none as chosen.
    """
    channels, planes = sizes.get("c", 1), sizes.get("z", 1)
    channel, plane = choice.channel_for(path, channels, names), choice.z_for(path, planes)
    several = {}
    if channel is None and not (colours or choice.takes_all_of(channels)):
        several["channels"] = _listed(channels, names)
    if plane is None and planes > 1:
        several["planes"] = _range(planes)
    if several:
        options = [f"--channel NUMBER, NAME or {ALL}"] * ("channels" in several)
        options += ["--z NUMBER"] * ("planes" in several)
        raise DataError(
            f"{path}: {' and '.join(f'several {what}' for what in several)}, of which one must be chosen",
            several,
            f"give {' and '.join(options)}",
        )
    return {axis: index for axis, index in (("c", channel), ("z", plane)) if index is not None}


def _number(path: Path, wanted: int | str, count: int, names: Sequence[str]) -> int:
    """Find a channel by its number or, if there is none of that number, by its name."""
    if isinstance(wanted, int) and wanted < count:
        return wanted
    text = str(wanted)
    same = [number for number, name in enumerate(names) if name == text]
    same = same or [number for number, name in enumerate(names) if name.casefold() == text.casefold()]
    if len(same) == 1:
        return same[0]
    raise DataError(
        f"{path}: {'several channels are' if same else 'no channel is'} called {wanted}"
        if isinstance(wanted, str)
        else f"{path}: there is no channel {wanted}",
        {"channels": _listed(count, names)},
        "give --channel one of these numbers" + (" or names" if any(names) else ""),
    )


def _listed(count: int, names: Sequence[str]) -> str:
    """Describe channels by number and name: "0 DAPI, 1 GFP"."""
    if not any(names):
        return _range(count)
    return first_names([f"{number} {name}".rstrip() for number, name in enumerate(names)], LISTED)


def _range(count: int) -> str:
    return "0" if count == 1 else f"0 to {count - 1}"
