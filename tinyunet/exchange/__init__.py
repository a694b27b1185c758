"""Networks in the formats of other programs.

- `onnx`: ONNX, which runs without this engine: in Fiji, QuPath, browsers.
- `bioimageio`: a package of the BioImage.IO model zoo: ONNX with a description, test tensors and a cover.
- `torch_names`: the weights by PyTorch's names, in PyTorch's layout.
- `start`: weights to start a training from.
- `packages`: what only this room needs, imported when it is used.
"""
