"""From labelled images to training samples: tiles cut out, deformed and weighted.

- `sampler`: one sample for each step: a tile, its classes and its weights.
- `batch`: a sample as a training step takes it, on the CPU or on a GPU.
- `augment`, `elastic`, `spline`: random tiles; the paper's elastic deformation; the splines that both use.
- `weight_map`: the paper's weights, which teach the network to separate touching cells.
- `sampler_cuda`, `augment_cuda`, `weight_map_cuda`: the same on a GPU.
"""

from tinyunet.sampling.augment import Augmentation
from tinyunet.sampling.sampler import Sample, Sampler, WeightMap, weights_by_class

__all__ = ["Augmentation", "Sample", "Sampler", "WeightMap", "weights_by_class"]
