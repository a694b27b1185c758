"""The widget that segments a layer with a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import CheckBox, ComboBox, FileEdit
from napari.layers import Image
from napari.utils.notifications import show_error

from tinyunet.napari.layers import pixel_size
from tinyunet.napari.panel import Cancelled, Panel, Report, Stopping, choose_layer, placement
from tinyunet.napari.segmentation import segment_layer

if TYPE_CHECKING:
    import napari


class SegmentWidget(Panel):
    """Segment an image layer, or each slice of a stack, into a new labels layer.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: napari.Viewer):
        self.image = choose_layer(napari_viewer, Image, "image")
        self.run = FileEdit(mode="d", label="run folder")
        self.output = ComboBox(label="result", choices=["objects", "classes"])
        self.symmetries = CheckBox(text="average over rotations and mirror images (8 times as long)")
        super().__init__(napari_viewer, [self.image, self.run, self.output, self.symmetries])
        self.add_button("Segment", self.segment)
        self.add_button("Cancel", self.stop, stops=True)

    def segment(self) -> None:
        """Start the segmentation that the form describes."""
        layer = self.image.value
        if layer is None:
            show_error("open an image first")
            return
        options: dict[str, Any] = {
            "name": layer.name,
            "rgb": layer.rgb,
            "output": self.output.value,
            "symmetries": 8 if self.symmetries.value else 1,
            "pixel_size": pixel_size(layer),
        }
        data = layer.data[0] if layer.multiscale else layer.data  # the finest
        shown = {"name": f"{layer.name}, {self.output.value}", **placement(layer)}
        path = Path(self.run.value)

        def work(report: Report, stopping: Stopping) -> None:
            def on_tile(done: int, total: int) -> None:
                if stopping():
                    raise Cancelled
                report((done, total))

            labels = segment_layer(data, path, on_tile=on_tile, **options)
            report((labels, shown))

        self.text.setText("")
        self.start(work)

    def on_report(self, report: Any) -> None:
        """Move the bar, or add the result."""
        first, second = report
        if isinstance(second, dict):
            self.viewer.add_labels(first, **second)
            self.text.setText(f"{int(first.max())} is the highest label")
        else:
            self.progress(first, second)

    def on_end(self) -> None:
        """Say what became of a cancelled prediction."""
        if self.text.text() == "stopping …":
            self.text.setText("cancelled")
        super().on_end()
