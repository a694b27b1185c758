"""A training run: its configuration, the loop, and the files that remain.

- `config`: the options of a run; `setup`: its images, tile sizes and samples, before there are weights.
- `trainer`: the loop; `schedule`: its learning rate; `events`: what it reports; `validation`: scores on the
  held-out images.
- `tiles`: a step of several tiles; `ranks`: the processes that share them.
- `collapse`: why a network predicts one class everywhere; `plateau`: that it learns no more than that.
- `checkpoint`, `run_folder`: what is written; `stored_run`: what is read back.
- `folds`: cross-validation, a run for each fold of the images.
"""
