"""A training run: its configuration, the loop, what is kept of it.

- `config`: the options of a run.
- `trainer`: the loop: steps in, events out; `collapse`: why a network predicts one class everywhere.
- `checkpoint`, `run_folder`: what is written; `stored_run`: what is read back.
"""
