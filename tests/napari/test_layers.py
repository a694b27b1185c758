"""From layers to image sets, as the reader of the commands then finds them."""

import numpy as np
import pytest

from tinyunet.data import UNKNOWN, read_images
from tinyunet.errors import DataError
from tinyunet.napari.layers import layer_set, pixel_size, places_to_train_on, stored_places


def painted(shape, *where):
    """Labels with a square of value 1 at each index."""
    labels = np.zeros(shape, np.uint8)
    for index in where:
        labels[index][2:6, 2:6] = 1
    return labels


def test_slices_without_labels_are_left_out():
    labels = painted((2, 3, 10, 12), (0, 1), (1, 2))
    places = places_to_train_on(labels)
    assert [tuple(index.start for index in place[:2]) for place in places] == [(0, 1), (1, 2)]
    assert all(labels[place].shape == (1, 1, 10, 12) for place in places)


@pytest.mark.parametrize("shape", [(21, 31), (5, 21, 31)])
def test_a_single_labelled_slice_becomes_its_quarters(shape):
    labels = np.zeros(shape, np.int32)
    only = labels[2] if labels.ndim == 3 else labels
    only[1:20, 1:30] = 1
    only[:10, :15] = 0  # nothing is labelled in the first quarter
    places = places_to_train_on(labels)
    corners = [tuple(index.start for index in place[-2:]) for place in places]
    assert corners == [(0, 15), (10, 0), (10, 15)]
    assert all(labels[place].shape[-2:] == (10, 15) for place in places)


def test_one_labelled_quarter_is_refused():
    with pytest.raises(DataError, match="a second slice"):
        places_to_train_on(painted((20, 20), ()))


@pytest.mark.parametrize("ignore", [(), (7,)])
def test_ignored_values_are_no_labels(ignore):
    labels = painted((3, 10, 10), 0, 1)
    labels[2] = 7
    assert len(places_to_train_on(labels, ignore)) == 3 - len(ignore)


def test_layers_of_different_size_are_refused():
    with pytest.raises(DataError, match="differ in size"):
        layer_set(np.zeros((3, 10, 10)), painted((3, 10, 12), 0, 1))


@pytest.mark.parametrize("rgb", [False, True])
def test_what_is_saved_is_read_as_it_was_drawn(tmp_path, rgb):
    """A stack in grey floats and one with transparency; 0 means unknown, 3 and 5 are classes."""
    rng = np.random.default_rng(0)
    image = rng.random((2, 3, 20, 24, 4)[: 5 if rgb else 4]).astype(np.float32)
    labels = rng.choice([0, 3, 5], (2, 3, 20, 24))
    labels[1, 1] = 0
    layers = layer_set(image, labels, rgb=rgb, ignore=[0])
    layers.save(tmp_path / "run" / "layers.npz")
    found = read_images(tmp_path / "run" / "layers.npz", kind="classes", ignore=[0])
    flat, pixels = labels.reshape(6, 20, 24), image.reshape(6, 20, 24, -1)[..., :3]
    assert found.class_values == (3, 5)
    for read, grey, slice_number in zip(found.labels, found.images, [0, 1, 2, 3, 5], strict=True):
        assert (read == np.select([flat[slice_number] == 3, flat[slice_number] == 5], [0, 1], UNKNOWN)).all()
        assert (grey == pixels[slice_number]).all()
    assert stored_places(tmp_path / "run" / "layers.npz") == (layers_as_numbers(layers), labels.shape)


def layers_as_numbers(layers):
    """The places with both ends of each slice."""
    return [
        tuple(slice(*index.indices(n)[:2]) for index, n in zip(place, layers.shape, strict=True))
        for place in layers.places
    ]


def test_other_archives_have_no_places(tmp_path):
    np.savez(tmp_path / "other.npz", images=np.zeros((2, 4, 4)))
    assert stored_places(tmp_path / "other.npz") is None


def test_the_size_of_a_layers_pixels():
    """They are known if the layer's units are lengths, and not pixels, the default."""
    layers = pytest.importorskip("napari.layers")
    pixels = np.zeros((3, 8, 8))
    layer = layers.Image(pixels, scale=(1, -250, 500), units=("um", "nm", "nm"))
    assert pixel_size(layer) == pytest.approx((0.25, 0.5))
    assert pixel_size(layers.Image(pixels, scale=(1, 0.5, 0.5))) is None
