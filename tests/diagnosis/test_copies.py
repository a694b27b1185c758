"""Images that are in a set twice are found, and unlike ones are not."""

from itertools import pairwise

import numpy as np
import pytest
from findings import cells, found, only, textures

from tinyunet.diagnosis.copies import ALIKE, check_duplicates, signature


def test_the_same_image_on_both_sides():
    images = textures(4)
    images[3] = images[1].copy()
    severity, message = only(found(check_duplicates, images))
    assert severity == "problem"
    assert "1 pair of a held-out and a training image with the same pixels" in message
    assert "i3 = i1" in message
    assert found(check_duplicates) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image // 2 + 60,
        lambda image: np.rot90(image),
        lambda image: image[::-1],
        lambda image: image.swapaxes(0, 1),
        lambda image: (
            (image + np.random.default_rng(1).normal(0, 10, image.shape)).clip(0, 255).astype(np.uint8)
        ),
        lambda image: np.roll(image, 1, axis=0),
        lambda image: image.astype(np.uint16) * 100,
    ],
    ids=["re-lit", "rotated", "mirrored", "transposed", "noisier", "moved", "16 bits"],
)
def test_nearly_the_same_image_on_both_sides(change):
    images = textures(4)
    images[3] = np.ascontiguousarray(change(images[1]))
    severity, message = only(found(check_duplicates, images))
    assert severity == "warning"
    assert "i3 ~ i1" in message


def test_unlike_images_of_any_size_are_no_duplicates():
    """Chance must not reach the threshold, and images smaller than a signature must not fail."""
    noise = np.random.default_rng(4).integers(0, 256, (12, 10, 10, 1)).astype(np.uint8)
    images = [*textures(12, side=60, seed=3), *noise]
    images[-1][...] = 5
    labels = [cells(side=60)] * 12 + [np.eye(10, dtype=int)] * 12
    assert found(check_duplicates, images, labels, held_out=6) == []
    signatures = np.array([signature(image).ravel() for image in images[:12]])
    assert np.abs(signatures @ signatures.T - np.eye(12)).max() < ALIKE - 0.1


@pytest.mark.parametrize("side", [48, 41])
def test_a_signature_is_the_means_of_blocks(side):
    image = textures(1, side)[0][..., 0]
    edges = [i * side // 16 for i in range(17)]
    cuts = [slice(*ends) for ends in pairwise(edges)]
    blocks = np.array([[image[rows, columns].mean() for columns in cuts] for rows in cuts])
    expected = (blocks - blocks.mean()) / np.linalg.norm(blocks - blocks.mean())
    np.testing.assert_allclose(signature(image[..., None]), expected, atol=1e-12)


@pytest.mark.parametrize(("same_labels", "severity"), [(True, "note"), (False, "problem")])
def test_the_same_image_twice_in_training(same_labels, severity):
    images = textures(4)
    images[1] = images[0]
    labels = [cells(), cells() if same_labels else cells(apart=3), cells(), cells()]
    found_severity, message = only(found(check_duplicates, images, labels))
    assert found_severity == severity
    assert "1 pair of training images" in message
    assert "i0 = i1" in message
