"""How good is a segmentation? The measures of the challenges that the paper reports, and those of today.

========================  =============================================  =====================
by pixels                 `pixel_error`, `iou`, `dice`                   class images
by segments               `rand_error`, `information_score`              label images
by segments, ISBI 2012    `v_rand`, `v_info`                             probabilities, binary
by topology, ISBI 2012    `warping_error`, `warping_mistakes`            binary images
by objects                `seg`, `seg_per_object`, `average_precision`   label images
========================  =============================================  =====================

Every function takes the prediction first and the ground truth, always called ``labels``, second. In a label
image 0 is the background and every other number one object.

What an image does not have gives no score. A class or object that is neither in the ground truth nor in the
prediction has the quotient 0/0, which is NaN here and None in files and tables. To call it 1 would reward a
network that finds nothing, the more so the rarer the objects are; to call it 0 would punish a right answer.
Leave such an image out of the mean and count the others. The score of a set is better taken from counts: add
up the true and false pixels or objects of its images (`confusion_matrix`), then divide once
(`iou_from_counts`). Then the empty images count by their false pixels alone. The commands and the choice of
the best checkpoint do so.
"""

from tinyunet.metrics.objects import average_precision, seg, seg_per_object
from tinyunet.metrics.pixels import (
    confusion_matrix,
    dice,
    dice_from_counts,
    iou,
    iou_from_counts,
    pixel_error,
)
from tinyunet.metrics.segments import information_score, rand_error, thin_borders, v_info, v_rand
from tinyunet.metrics.warping import Mistake, warp_labels, warping_error, warping_mistakes

__all__ = [
    "Mistake",
    "average_precision",
    "confusion_matrix",
    "dice",
    "dice_from_counts",
    "information_score",
    "iou",
    "iou_from_counts",
    "pixel_error",
    "rand_error",
    "seg",
    "seg_per_object",
    "thin_borders",
    "v_info",
    "v_rand",
    "warp_labels",
    "warping_error",
    "warping_mistakes",
]
