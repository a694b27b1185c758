"""The ops of the network, one file per op.

Each file goes from the mathematics to the machine: the equation, its NumPy reference, the checks and the
public function, the op in the graph, the Numba kernels, the launches of the CUDA kernels.
`tinyunet.backend.DISPATCH_TABLE` lists them all: for each op and direction, the implementation of each
backend.

Nothing is exported here: `tinyunet.ops.conv2d` is the module. The function in it is also `tinyunet.conv2d`.
"""
