"""The progress bars of the commands. None is shown where the output is not a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def step_bar(total: int, done: int) -> tqdm[None]:
    """Make the bar of a training: steps made of all, with the loss."""
    return tqdm(total=total, initial=done, unit="step", dynamic_ncols=True, disable=None)


def over_files(files: Iterable[T]) -> Iterable[T]:
    """Show a bar while files are read one after the other."""
    return tqdm(files, unit="file", disable=None)


def over_images(images: Iterable[T], total: int) -> Iterable[T]:
    """Show a bar while images are predicted; it is removed at the end."""
    return tqdm(images, total=total, unit="image", disable=None, leave=False)


@contextmanager
def over_tiles(image: str, unit: str = "tile") -> Iterator[Callable[[int, int], None]]:
    """Show a bar over the tiles of an image, or other parts; yields the `on_tile` of `predict_tiled`."""
    with tqdm(unit=unit, leave=False, disable=None, desc=image) as bar:

        def show(done: int, total: int) -> None:
            if not bar.n:
                bar.initial = done - 1  # those of an earlier start say nothing about the time left
            bar.total = total
            bar.update(done - bar.n)

        yield show
