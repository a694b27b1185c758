"""A plugin for napari: sample images, and widgets that segment a layer or train on layers.

    napari.yaml          what napari reads to find the others
    sample_data          the project's synthetic cells
    layers               from layers to images and back
    segmentation         a layer, segmented with a run
    training             a run that is trained on layers
    panel                what the widgets share: a form, a worker thread, progress, errors in words
    segment_widget, train_widget

Only the last three import napari and Qt (``pip install 'tinyunet[napari]'``); nothing else imports them.
"""
