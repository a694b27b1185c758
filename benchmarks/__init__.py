"""Speed and memory beside PyTorch's, as ratios of one run. None of it is a test."""
