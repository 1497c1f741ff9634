"""Widget that finds the nuclei in an image layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicgui.widgets import (
    ComboBox,
    Container,
    FileEdit,
    FloatSpinBox,
    Label,
    LineEdit,
    ProgressBar,
    PushButton,
    create_widget,
)
from napari.layers import Image, Layer

from cytoseed.models.weights import AUTO, list_models
from cytoseed.napari_plugin.plane import Plane, pixel_size_yx_um, plane_in_view
from cytoseed.napari_plugin.worker import SegmentWorker
from cytoseed.results import Result
from cytoseed.settings import MOST_EXPANDED_UM, STAINS

if TYPE_CHECKING:
    import napari.viewer

_OWN, _NO_STAIN = "a folder...", "as it is"


class SegmentWidget(Container):  # type: ignore[misc]
    """Settings of a segmentation, and buttons that run and cancel it."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = viewer
        self._worker: SegmentWorker | None = None
        self.image = create_widget(label="image", annotation=Image)
        self.model = ComboBox(label="model", choices=[AUTO, *(each.name for each in list_models()), _OWN])
        self.model_folder = FileEdit(label="model folder", mode="d", visible=False)
        self.pixel_size = FloatSpinBox(label="pixel size (µm)", min=0, max=10, step=0.01)
        self.pixel_size.native.setDecimals(4)
        self.pixel_size.native.setSpecialValueText("unknown")
        self.channels = LineEdit(label="channels")
        self.stain = ComboBox(label="stain", choices=[_NO_STAIN, *STAINS])
        self.expand = FloatSpinBox(label="cells: expand by (µm)", min=0, max=MOST_EXPANDED_UM, step=0.5)
        self.expand.native.setSpecialValueText("nuclei only")
        self.run = PushButton(text="Find nuclei")
        self.cancel = PushButton(text="Cancel", enabled=False)
        self.bar = ProgressBar(visible=False)
        self.status = Label(value="")
        self.status.native.setWordWrap(True)
        self._explain()
        buttons = Container(widgets=[self.run, self.cancel], layout="horizontal", labels=False)
        fields = [self.image, self.model, self.model_folder, self.pixel_size, self.channels, self.stain, self.expand]
        super().__init__(widgets=[*fields, buttons, self.bar, self.status])
        self.image.changed.connect(self._take_layer)
        self.model.changed.connect(lambda name: setattr(self.model_folder, "visible", name == _OWN))
        self.run.changed.connect(self.start)
        self.cancel.changed.connect(self.stop)
        self.native_parent_changed.connect(lambda _: self._take_layer(self.image.value))
        self._take_layer(self.image.value)

    def _explain(self) -> None:
        self.model.tooltip = "auto: nuclei-he for H&E and other brightfield colours, nuclei for everything else"
        self.pixel_size.tooltip = "From the layer's scale, where its units are lengths"
        self.channels.tooltip = (
            "Empty: the plane in view. For a layer whose first axis is channels: their numbers from 0, such as 0,2"
        )
        self.stain.tooltip = "One stain of a brightfield image in colours"
        self.expand.tooltip = "Cells are nuclei grown by this distance, never over a neighbour"

    def _take_layer(self, layer: Layer | None) -> None:
        """Show what is known of a layer."""
        size = None if layer is None else pixel_size_yx_um(layer)
        self.pixel_size.value = 0 if size is None else sum(size) / 2
        self.stain.enabled = layer is not None and bool(layer.rgb)

    def start(self) -> None:
        """Segment the layer in a thread."""
        layer = self.image.value
        try:
            if layer is None:
                raise ValueError("open an image first")
            plane = plane_in_view(layer, self._viewer.dims.point, bool(self.channels.value.strip()))
            model = str(self.model_folder.value) if self.model.value == _OWN else self.model.value
            worker = SegmentWorker(plane.image, model, self._settings(layer))
        except (ValueError, TypeError, OSError) as error:
            self.status.value = str(error)
            return
        worker.notice.connect(self._note)
        worker.advanced.connect(self._advance)
        worker.returned.connect(lambda result: self._show(result, plane))
        worker.errored.connect(self._fail)
        worker.finished.connect(self._end)
        self._worker = worker
        self.status.value = ""
        self.bar.min = self.bar.max = 0  # until tiles are counted, or for a single one, it only moves
        self.bar.visible, self.run.enabled, self.cancel.enabled = True, False, True
        worker.start()

    def stop(self) -> None:
        """Cancel: an image in tiles after the next one, others when they are done."""
        if self._worker is not None:
            self._worker.quit()
            self.cancel.enabled = False
            self.status.value = "cancelling after this tile"

    def _settings(self, layer: Layer) -> dict[str, Any]:
        """Fields of `SegmentOptions` that differ from its defaults."""
        settings: dict[str, Any] = {}
        size = pixel_size_yx_um(layer)
        if self.pixel_size.value and (size is None or abs(self.pixel_size.value - sum(size) / 2) > 1e-4):
            settings["pixel_size_um"] = self.pixel_size.value
        if self.channels.value.strip():
            settings["channels"] = tuple(each.strip() for each in self.channels.value.split(","))
        if self.stain.enabled and self.stain.value != _NO_STAIN:
            settings["stain"] = self.stain.value
        if self.expand.value:
            settings["expand_um"] = self.expand.value
        return settings

    def _note(self, sentence: str) -> None:
        self.status.value = "\n".join(filter(None, (self.status.value, sentence)))

    def _advance(self, done: int, total: int, objects: int) -> None:
        self.bar.max, self.bar.value = total, done
        self.bar.label = f"{objects} found"

    def _show(self, result: Result, plane: Plane) -> None:
        for layer in plane.layers(result):
            self._viewer.add_layer(Layer.create(*layer))
        stain = result.settings.get("stain")
        by = f"{result.settings['model']}{f' on {stain}' if stain else ''}"
        self.status.value = "\n".join(filter(None, (f"{result.count} {result.targets[-1]} by {by}", self.status.value)))

    def _fail(self, error: Exception) -> None:
        self.status.value = str(error) or type(error).__name__

    def _end(self) -> None:
        if self._worker is not None and self._worker.abort_requested:
            self.status.value = "cancelled"
        self._worker = None
        self.bar.visible, self.run.enabled, self.cancel.enabled = False, True, False
