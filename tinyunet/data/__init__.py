"""Image sets: reading them, holding images out, normalising grey values, and two that are made from a seed.

    image_set            what a set is: images (H, W, C), labels (H, W), and what the labels mean
    decode               one PNG, JPEG or TIFF file to its pixels, exactly as stored
    label_kind           the rule that tells masks, classes and single objects apart
    readers, writer      folders, stacks and archives to a set, and back
    cell_tracking        the Cell Tracking Challenge's films
    partly_annotated     which pixels nobody labelled
    holdout, intensity   what happens before training
    fingerprint          whether the images are still those that were trained on
    nuclei, neurites     synthetic sets: fluorescence and electron microscopy, grown from noise

Everything here is arrays in, arrays out: no tensors, no network.
"""

from tinyunet.data.cell_tracking import Truth
from tinyunet.data.holdout import split
from tinyunet.data.image_set import UNKNOWN, ImageSet, LabelKind, class_labels
from tinyunet.data.intensity import normalise
from tinyunet.data.neurites import synthetic_membranes
from tinyunet.data.nuclei import synthetic_cells
from tinyunet.data.readers import read_images
from tinyunet.data.writer import save_image_set

__all__ = [
    "UNKNOWN",
    "ImageSet",
    "LabelKind",
    "Truth",
    "class_labels",
    "normalise",
    "read_images",
    "save_image_set",
    "split",
    "synthetic_cells",
    "synthetic_membranes",
]
