"""A trace of a few steps, for TensorBoard, XProf or Perfetto."""

from pathlib import Path

import jax

_FIRST, _COUNT = 3, 10  # dispatches: the first of a start are slower than those to come


class Profile:
    """As the context of every dispatch it traces ten of them, unless its folder is None."""

    def __init__(self, folder: Path | None):
        """Waits for the first steps."""
        self.folder = folder
        self._dispatches = 0
        self._running = False

    def __enter__(self) -> None:
        """Counts a dispatch that is about to begin."""
        self._dispatches += 1
        if self.folder is not None and self._dispatches == _FIRST:
            jax.profiler.start_trace(self.folder, create_perfetto_trace=True)
            self._running = True

    def __exit__(self, *error: object) -> None:
        """Ends the trace with its last dispatch, or an error."""
        if self._running and (self._dispatches == _FIRST + _COUNT - 1 or error[0] is not None):
            self.close()

    def close(self) -> None:
        """Ends the trace, if one is being taken, as where a run is shorter."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            print(f"trace of a few steps: {self.folder} (ui.perfetto.dev or TensorBoard show it)")
