"""Networks and predicted objects in the formats of other programs.

- `onnx`: ONNX, which runs without this engine: in Fiji, QuPath, browsers.
- `bioimageio`: a package of the BioImage.IO model zoo: ONNX with a description, test tensors and a cover.
- `torch_names`: the weights by PyTorch's names, in PyTorch's layout.
- `record`: what such a file says of its network.
- `exported`: networks read back from these files; `from_onnx` and `from_package` are its readers.
- `start`: weights to start a training from, also of other programs: `from_milesial`, with `from_pickle`, and
  `from_caffe`.
- `weights`: whether weights are those of a network.
- `objects`, `outlines`: predicted objects for QuPath, ImageJ and tables.
- `packages`: what only this room needs, imported when it is used.
"""
