"""The ops of the network: one file per op, with its equation, reference, checks, and Numba and CUDA versions.

`tinyunet.backend.DISPATCH_TABLE` lists them all: for each op and direction, the implementation of each
backend.

Nothing is exported here: `tinyunet.ops.conv2d` is the module. The function in it is also `tinyunet.conv2d`.
"""
