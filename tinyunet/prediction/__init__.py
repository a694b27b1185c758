"""From a network to a segmentation: overlap-tile, objects, result files.

- `tiling`: class probabilities of images of any size, tile by tile; `tiling_cuda`: its tiles on a GPU.
- `instances`: from probabilities to numbered objects; `necks`: cuts touching ones apart.
- `object_rule`: below which size something is a speck, and which necks are cut.
- `segmentation`: both of these, for one image or a set.
- `files`: the files of a predicted image.
- `films`: results in the layout of the Cell Tracking Challenge.
- `slides`: an image larger than memory into an OME-Zarr: `stream`, `budget`, `blocks`, `ome_zarr`.
- `cluster`: slides shared out to several processes and machines; `workers`: what these do.
"""
