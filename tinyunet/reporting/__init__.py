"""Progress on the screen, pictures, the page of a run, and the record of the machine.

- `progress`: the progress bars; `recorder`: shows a training and writes its run folder.
- `pictures`: images, labels and mistakes as arrays of RGB; `plots`: figures.
- `page`: one HTML page about a run, from `templates/`.
- `fold_table`, `fold_page`: the scores of a cross-validation, on the screen and as a page.
- `environment`: machine and versions.
"""
