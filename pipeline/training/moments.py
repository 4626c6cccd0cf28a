"""When a training is looked at, and where: on its workers, or by others while it goes on."""

import threading

from torch import Tensor

from pipeline import storage, weights_file
from pipeline.training.ema import WeightAverage
from pipeline.training.parallel import Replicated
from pipeline.training.settings import LoopSettings
from pipeline.training.spool import LOOKS
from pipeline.training.validation import Validation


class Moments:
    """Evenly spaced looks at a training's averaged weights."""

    def __init__(self, settings: LoopSettings, layout: Replicated, rank: int, world: int) -> None:
        """Spread the moments over the run; nothing is read yet."""
        self._settings, self._layout, self._rank = settings, layout, rank
        self._validation = Validation(settings, layout, rank, world)
        count, steps = settings.num_moments, settings.num_steps
        self._steps = {steps * (index + 1) // count for index in range(count)} - {0, steps}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def are_here(self) -> bool:
        """Whether the workers themselves look."""
        return self._settings.config.execution.validate_on == "worker"

    def due(self, step: int) -> bool:
        """Whether a look follows ``step`` finished steps; the end is looked at by `finish`."""
        return step in self._steps

    def look(self, ema: WeightAverage, samples_seen: int) -> dict[str, float]:
        """Validation metrics of the averaged weights, or none where others will look at them.

        The live network is unchanged afterwards. Every worker calls it.

        Args:
            ema: Its average.
            samples_seen: Names what is found, or what is handed over.
        """
        if self.are_here:
            with ema.applied():
                return self._validation.look(samples_seen)
        self.wait()
        state = self._layout.published(ema.state())
        if self._rank == 0:
            copy = {name: tensor.clone() for name, tensor in state.items()}
            self._thread = threading.Thread(target=self._hand_over, args=(copy, samples_seen))
            self._thread.start()
        return {}

    def _hand_over(self, state: dict[str, Tensor], samples_seen: int) -> None:
        settings = self._settings
        uri = storage.join(settings.uri, LOOKS, f"{samples_seen:012d}.safetensors")
        try:
            weights_file.export_weights(uri, state, settings.published_config, settings.stage)
        except BaseException as error:
            self._error = error  # raised again by `wait`

    def wait(self) -> None:
        """Until the last weights are handed over; raises what that failed with."""
        if self._thread is not None:
            self._thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error
