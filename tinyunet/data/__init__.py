"""Image sets: reading, holding out, normalising, and three synthetic ones.

    image_set            a set: images (H, W, C), labels (H, W), and the meaning of the labels
    decode, decode_*     from one image file to its pixels, as viewers show them
    windows, windows_*   images that are read window by window; OME-Zarr, ND2 and CZI
    planes               which of several channels and planes is read
    class_table          the files' number or colour of each class
    label_kind           the rule that distinguishes masks, classes and objects
    readers, writer      from folders, stacks and archives to a set, and back
    records              from the pixels of files to a set
    as_needed            sequences whose items are made when they are needed
    large_sets           sets whose files are read when they are needed
    atomic_write         files that are written whole or not at all
    layouts              which label file belongs to which image file
    cell_tracking        films in the layout of the Cell Tracking Challenge
    partly_annotated     pixels that nobody labelled
    pixel_sizes, scaling sizes of pixels in µm; images of several magnifications, scaled to one
    holdout, intensity   splitting and normalising before training
    fingerprint          checksums that recognise the images of a training run
    nuclei, neurites     synthetic fluorescence and electron micrographs, made from noise
    monolayer            synthetic micrographs in interference contrast
    outline, noise       what these are drawn with

All of it works on arrays: no tensors, no network.
"""

from tinyunet.data.cell_tracking import Truth
from tinyunet.data.holdout import split
from tinyunet.data.image_set import UNKNOWN, ImageSet, LabelKind, class_labels
from tinyunet.data.intensity import GreyStatistics, normalise
from tinyunet.data.monolayer import synthetic_dic
from tinyunet.data.neurites import synthetic_membranes
from tinyunet.data.nuclei import synthetic_cells
from tinyunet.data.planes import PlaneChoice
from tinyunet.data.readers import read_images
from tinyunet.data.writer import save_image_set

__all__ = [
    "UNKNOWN",
    "GreyStatistics",
    "ImageSet",
    "LabelKind",
    "PlaneChoice",
    "Truth",
    "class_labels",
    "normalise",
    "read_images",
    "save_image_set",
    "split",
    "synthetic_cells",
    "synthetic_dic",
    "synthetic_membranes",
]
