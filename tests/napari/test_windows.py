"""The widgets without a screen, on a viewer's model; in a window where there is a screen, such as Xvfb's."""

import os
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import pytest

if find_spec("napari") is None:
    pytest.skip("napari is missing: pip install -e '.[napari]'", allow_module_level=True)

# In another process: Qt aborts if the system lacks one of its libraries, such as libEGL.
START_QT = "from qtpy.QtWidgets import QApplication; QApplication([])"
started = subprocess.run([sys.executable, "-c", START_QT], capture_output=True, text=True, timeout=120)
if started.returncode:
    pytest.skip(f"Qt does not start: {started.stderr.strip().splitlines()[-1]}", allow_module_level=True)

import napari
from napari.components import ViewerModel
from napari.utils.notifications import notification_manager
from npe2 import PluginManager, PluginManifest
from npe2.manifest.utils import import_python_name
from qtpy import QtWidgets
from qtpy.QtCore import QEvent

from tinyunet.napari.segmentation import segment_layer
from tinyunet.napari.train_widget import PREVIEW
from tinyunet.training.checkpoint import load_checkpoint

SEGMENT, TRAIN = "Segment a layer with a run", "Train on layers"


@pytest.fixture(scope="module", autouse=True)
def application():
    """Qt itself, kept until the last test has ended."""
    return QtWidgets.QApplication.instance() or QtWidgets.QApplication([])


@pytest.fixture
def viewer():
    """Layers and slider of a viewer, without its window, which would need OpenGL."""
    return ViewerModel()


@pytest.fixture
def panel(viewer):
    """`panel(name)` makes a widget of the plugin, by its name in the menu."""
    manifest = PluginManifest.from_distribution("tinyunet")
    commands = {widget.display_name: widget.command for widget in manifest.contributions.widgets}
    functions = {command.id: command.python_name for command in manifest.contributions.commands}
    notification_manager.records.clear()
    return lambda name: import_python_name(functions[commands[name]])(viewer)


def wait_until(is_true, seconds=120):
    """Let Qt work until something holds."""
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, "it took too long"
        QtWidgets.QApplication.processEvents()
        time.sleep(0.01)


def run_to_end(panel):
    wait_until(panel.bar.isHidden)


def messages():
    return [str(record.message) for record in notification_manager.records]


def test_the_manifest_names_what_exists():
    manifest = PluginManifest.from_distribution("tinyunet")
    manifest.validate_imports()
    assert {widget.display_name for widget in manifest.contributions.widgets} == {SEGMENT, TRAIN}


def test_sample_data_opens(viewer):
    PluginManager.instance().discover()
    image, labels = viewer.open_sample("tinyunet", "cells")
    assert image.data.shape == labels.data.shape == (5, 256, 256)
    assert all(slice_.max() > 5 for slice_ in labels.data)


def test_a_layer_is_segmented_into_a_new_one(viewer, panel, cells, trained):
    widget = panel(SEGMENT)
    layer = viewer.add_image(cells[0], name="cells", scale=(3, 0.5, 0.5))
    widget.run.value = trained
    widget.segment()
    assert not widget.bar.isHidden()
    run_to_end(widget)
    result = viewer.layers["cells, objects"]
    assert (result.data == segment_layer(cells[0], trained)).all()
    assert (result.scale == layer.scale).all()


def test_a_mistake_is_shown_in_words(viewer, panel, trained, tmp_path):
    widget = panel(SEGMENT)
    viewer.add_image(np.zeros((40, 40, 3), np.uint8), name="colours", rgb=True)
    for run, words in ((tmp_path, "no such checkpoint"), (trained, "3 channels")):
        notification_manager.records.clear()
        widget.run.value = run
        widget.segment()
        run_to_end(widget)
        assert [words in message for message in messages()] == [True]
        assert "Traceback" not in messages()[0]
    assert len(viewer.layers) == 1


def test_a_prediction_is_cancelled(viewer, panel, cells, trained):
    widget = panel(SEGMENT)
    viewer.add_image(np.concatenate([cells[0]] * 50), name="film")
    widget.run.value = trained
    widget.segment()
    widget.stop()
    run_to_end(widget)
    assert len(viewer.layers) == 1
    assert widget.text.text() == "cancelled"


def test_a_training_shows_itself_stops_and_goes_on(viewer, panel, cells, tmp_path):
    widget = panel(TRAIN)
    viewer.add_image(cells[0], name="cells")
    viewer.add_labels(cells[1], name="labels")
    widget.run.value, widget.unit.value, widget.steps.value = tmp_path / "run", "steps", 3
    widget.train()
    widget.stop()
    run_to_end(widget)
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").step == 1
    assert "Go on" in widget.text.text()
    assert not widget.curves.pixmap().isNull()
    widget.go_on()
    run_to_end(widget)
    assert viewer.layers[PREVIEW].data.shape == cells[1].shape
    assert viewer.dims.current_step[0] == 3  # the held-out slice
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").step == 3
    assert "finished at step 3" in widget.text.text()
    assert not [layer for layer in viewer.layers if layer.name.startswith(f"{PREVIEW} ")]


def test_a_folder_with_other_files_is_refused_in_words(viewer, panel, cells, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    widget = panel(TRAIN)
    viewer.add_image(cells[0])
    viewer.add_labels(cells[1])
    widget.run.value = tmp_path
    widget.train()
    run_to_end(widget)
    assert "nothing was overwritten" in messages()[-1]
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_layers_come_and_go_after_a_widget_is_gone(viewer, panel, cells):
    widget = panel(TRAIN)
    viewer.add_image(cells[0], name="cells")
    assert widget.image.value is viewer.layers["cells"]
    widget.deleteLater()
    QtWidgets.QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
    viewer.add_labels(cells[1])
    assert len(viewer.layers) == 2


@pytest.mark.skipif(
    os.environ["QT_QPA_PLATFORM"] == "offscreen",
    reason="a window needs OpenGL: QT_QPA_PLATFORM=xcb xvfb-run -a python -m pytest …",
)
def test_widgets_open_in_a_window(cells):
    viewer = napari.Viewer(show=False)
    viewer.add_image(cells[0], name="cells")
    for name in (SEGMENT, TRAIN):
        dock, widget = viewer.window.add_plugin_dock_widget("tinyunet", name)
        assert widget.image.value is viewer.layers["cells"]
        viewer.window.remove_dock_widget(dock)
    viewer.close()
