"""Several trainings that take turns, so that one pass of the model serves the layers of all of them.

Each training runs in a thread of its own, as it would alone, and one at a time. Where it needs its next pool
of activations it waits until the others need theirs; then the model runs once for all that want the same.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytorch_lightning.utilities.exceptions import SIGTERMException

if TYPE_CHECKING:
    import numpy as np

    from vlmdiff.extraction.stream import Place, Run

log = logging.getLogger(__name__)
# How often a training that waits looks whether the job is to stop.
LOOK_EVERY_S = 0.2


class Turns:
    """Lets trainings of several layers run one at a time, and makes the pools that all of them wait for.

    Args:
        layers: of the trainings.
        stopping: set when all of them have to stop.
    """

    def __init__(self, layers: Sequence[int], stopping: threading.Event) -> None:
        self.turn, self.stopping = threading.Condition(), stopping
        self.active, self.waiting = set(layers), dict[int, "Place"]()
        self.made: dict[int, np.ndarray] = {}
        self.problem: BaseException | None = None
        self.runs = 0

    @contextmanager
    def of(self, layer: int) -> Iterator[None]:
        """Wait for a first turn, and let the others go on without this layer at the end."""
        with self.turn:
            try:
                yield
            finally:
                self.active.discard(layer)
                self.waiting.pop(layer, None)
                self.turn.notify_all()

    def get(self, layer: int, place: Place, run: Run) -> np.ndarray:
        """Return a layer's values of a pool, when all other trainings wait for theirs.

        Called by the training whose turn it is; the argument of `ActivationStream`.

        Raises:
            SIGTERMException: the job has to stop.
            Exception: the model failed, in whichever training's turn.
        """
        self.waiting[layer] = place
        # It may have been the last one that the others waited for.
        self.turn.notify_all()
        while layer not in self.made:
            if self.problem is not None:
                raise self.problem
            if self.stopping.is_set():
                raise SIGTERMException
            if self.waiting.keys() >= self.active and place == min(self.waiting.values()):
                self.make(place, run)
            else:
                self.turn.wait(LOOK_EVERY_S)
        return self.made.pop(layer)

    def make(self, place: Place, run: Run) -> None:
        """Make a pool for all trainings that wait for it."""
        layers = sorted(layer for layer, wanted in self.waiting.items() if wanted == place)
        try:
            self.made |= run(layers)
        except BaseException as error:
            self.problem = error
            raise
        finally:
            self.turn.notify_all()
        self.runs += 1
        for layer in layers:
            del self.waiting[layer]


def take_turns(
    trainings: Mapping[int, Callable[[Turns], None]], stopping: threading.Event
) -> dict[int, BaseException]:
    """Run trainings, one at a time, each in a thread of its own; return what stopped them, by layer.

    SIGTERM, which this process's main thread gets, stops all of them.

    Args:
        trainings: functions that train, given what their streams get their pools from.
        stopping: what the trainings look at.
    """
    turns, failed = Turns(list(trainings), stopping), dict[int, BaseException]()

    def run(layer: int, train: Callable[[Turns], None]) -> None:
        try:
            with turns.of(layer):
                train(turns)
        except BaseException as error:
            failed[layer] = error

    threads = [threading.Thread(target=run, args=item, name=f"layer {item[0]}") for item in trainings.items()]
    with told_to_stop(stopping):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    log.info("%d layers, %d passes of the model over a pool of samples", len(trainings), turns.runs)
    return failed


@contextmanager
def told_to_stop(stopping: threading.Event) -> Iterator[None]:
    """Set an event at SIGTERM while the context is open; only a process's main thread hears of it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _: Any) -> None:
        stopping.set()

    former = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
