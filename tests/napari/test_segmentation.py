"""A layer is segmented as tinyunet.predict segments its slices."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from tinyunet import predict
from tinyunet.errors import CheckpointError, DataError
from tinyunet.napari.layers import layer_set
from tinyunet.napari.segmentation import segment_layer
from tinyunet.napari.training import train_on_layers


@pytest.mark.parametrize("symmetries", [1, 8])
def test_objects_are_those_of_the_command(cells, trained, tmp_path, symmetries):
    stack = cells[0][:2]
    np.savez(tmp_path / "stack.npz", images=stack)
    out = tmp_path / "out"
    predict.main(
        [str(trained), str(tmp_path / "stack.npz"), "--out", str(out), "--symmetries", str(symmetries)]
    )
    found = segment_layer(stack[None], trained, symmetries=symmetries)  # (1, 2, H, W): time, depth
    assert found.shape == (1, 2, 96, 96)
    assert found.max() > 0
    for labels, file in zip(found[0], sorted(out.glob("*_instances.tif")), strict=True):
        assert (labels == tifffile.imread(file)).all()


def test_classes_have_the_numbers_of_the_labels(cells, choices, tmp_path):
    """Trained on the values 4 and 9 in colour images with transparency."""
    image = np.repeat(cells[0][..., None], 4, axis=-1)
    labels = np.where(cells[1] > 0, 9, 4)
    chosen = choices(kind="classes")
    for _ in train_on_layers(layer_set(image, labels, rgb=True), chosen, lambda: False):
        pass
    found = segment_layer(image[0], chosen.run, rgb=True, output="classes")
    Image.fromarray(image[0, ..., :3]).save(tmp_path / "0.png")
    predict.main([str(chosen.run), str(tmp_path / "0.png"), "--out", str(tmp_path / "out")])
    assert (found == np.asarray(Image.open(tmp_path / "out" / "0_classes.png"))).all()
    assert set(np.unique(found)) == {4, 9}


def test_progress_counts_the_tiles_of_all_slices(cells, trained):
    seen = []
    segment_layer(cells[0], trained, on_tile=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 4) for n in range(1, 5)]  # a slice fits into one tile


def test_what_on_tile_raises_ends_the_prediction(cells, trained):
    tiles = []

    def cancel(done, total):
        tiles.append(done)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        segment_layer(cells[0], trained, on_tile=cancel)
    assert tiles == [1]


def test_other_channels_are_refused_in_words(trained):
    with pytest.raises(DataError, match="my layer: the images do not have the channels"):
        segment_layer(np.zeros((40, 40, 3)), trained, name="my layer", rgb=True)


def test_a_folder_without_a_run_is_refused_in_words(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        segment_layer(np.zeros((40, 40)), tmp_path)


def test_a_layer_is_brought_to_the_pixels_that_the_network_sees(cells, choices, tmp_path):
    chosen = choices(extra=("--pixel-size", "0.5", "--pixel-sizes", "0.5"))
    for _ in train_on_layers(layer_set(*cells), chosen, lambda: False):
        pass
    np.savez(tmp_path / "stack.npz", images=cells[0][:1], pixel_sizes=[0.25])
    predict.main([str(chosen.run), str(tmp_path / "stack.npz"), "--out", str(tmp_path / "out")])
    found = segment_layer(cells[0][0], chosen.run, pixel_size=(0.25, 0.25))
    assert (found == tifffile.imread(tmp_path / "out" / "stack_instances.tif")).all()
    with pytest.raises(DataError, match="my layer: the size of the layer's pixels is not known"):
        segment_layer(cells[0][0], chosen.run, name="my layer")
    with pytest.raises(DataError, match="my layer has pixels of a very different size"):
        segment_layer(cells[0][0], chosen.run, name="my layer", pixel_size=(500, 500))
