"""TensorBoard events, written at once: tensorboardX's own writer hangs where its disk is full."""

import time
from pathlib import Path
from typing import Any


class Events:
    """A file of events in a run's folder."""

    def __init__(self, workdir: Path, step: int):
        """Begins a file; what older ones say of later steps no longer counts.

        Raises:
            ImportError: if tensorboardX is not installed.
            OSError: if it cannot be written.
        """
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._event = Event
        self._writer = EventsWriter(str(workdir / "events"))
        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=step, session_log=start))

    def write(self, record: dict[str, Any]) -> None:
        """Adds the numbers of a record, which has "step" too.

        Raises:
            OSError: if they cannot be written.
        """
        from tensorboardX.summary import scalar

        for name, value in record.items():
            if name not in ("step", "epoch"):
                self._add(scalar(name, value), record["step"])
        self._writer.flush()

    def picture(self, name: str, path: Path, step: int) -> None:
        """Adds a PNG.

        Raises:
            OSError: if it cannot be written.
        """
        import numpy as np
        from PIL import Image
        from tensorboardX.summary import image

        self._add(image(name, np.asarray(Image.open(path)), dataformats="HWC"), step)
        self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()

    def _add(self, summary: Any, step: int) -> None:
        self._writer.write_event(self._event(wall_time=time.time(), step=step, summary=summary))
