"""Folds of a set: each image in one, as scikit-learn parts them, and films whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, KFold

from tinyunet.data.holdout import fold_holdouts, held_out_indices
from tinyunet.errors import DataError, OptionError


def parts_of(names: list[str], folds: int) -> list[list[int]]:
    """Return the indices that each fold holds out, as training reads them."""
    return [held_out_indices(len(names), holdout) for holdout in fold_holdouts(names, folds)]


@given(st.integers(2, 40), st.data())
def test_folds_are_those_of_scikit_learn(n: int, data: st.DataObject) -> None:
    folds = data.draw(st.integers(2, n))
    expected = [held.tolist() for _, held in KFold(folds).split(np.zeros(n))]
    assert parts_of([f"image-{i}" for i in range(n)], folds) == expected


@given(st.lists(st.integers(1, 9), min_size=2, max_size=8, unique=True), st.data())
def test_films_stay_whole_as_the_groups_of_scikit_learn(lengths: list[int], data: st.DataObject) -> None:
    """Films of different lengths: among equal ones scikit-learn deals the last first."""
    films = [film for film, length in enumerate(lengths) for _ in range(length)]
    names = [f"{film:02d}_t{frame:03d}" for frame, film in enumerate(films)]
    folds = data.draw(st.integers(2, len(lengths)))
    expected = [held.tolist() for _, held in GroupKFold(folds).split(np.zeros(len(films)), groups=films)]
    assert parts_of(names, folds) == expected


def test_frames_of_one_film_are_images_like_others() -> None:
    assert fold_holdouts([f"01_t{i:03d}" for i in range(5)], 2) == ["0-2", "3-4"]


def test_films_that_are_not_alone_are_no_groups() -> None:
    assert fold_holdouts(["01_t000", "01_t001", "02_t000", "extra"], 2) == ["0-1", "2-3"]


def test_too_many_folds() -> None:
    with pytest.raises(DataError, match="4 folds of 3 images"):
        fold_holdouts(["a", "b", "c"], 4)
    with pytest.raises(DataError, match="3 folds of 2 films"):
        fold_holdouts(["01_t000", "01_t001", "02_t000"], 3)
    with pytest.raises(OptionError, match="at least 2"):
        fold_holdouts(["a", "b", "c"], 1)
