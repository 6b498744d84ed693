"""Runs the map of an evaluation on Ray Data: on the cores or GPUs of one machine or of many.

The units are read by this process, which alone knows what the input is, and stream through a queue
into a data set; actors with models of their own work on them; their parts come back in the order of
the input. Ray gives a unit to another actor where one is lost.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from decoding.passes.journal import NO_JOURNAL, Journal
from decoding_evals.mapping.engine import Made, OnProgress, Progress, Work
from decoding_evals.mapping.units import Unit, sent, told
from decoding_evals.showing.lines import note

if TYPE_CHECKING:
    import pyarrow

READERS = 1
"""Logical CPUs that hand units on, beside those of the workers."""
_STORE_BYTES = 1 << 29
_WAIT_SECONDS = 1.0


class RayData:
    """Works on units in actors.

    Args:
        load: makes the models that an actor works with; it travels there.
        workers: how many actors; default one for each GPU, or for each CPU where there is none.
        address: of a cluster, as `ray.init` takes it; default one on this machine, for this run.
        journal: keeps the parts of each unit.

    Raises:
        ValueError: Ray is not installed, or the cluster is too small.
    """

    def __init__(
        self,
        load: Callable[[], Any],
        *,
        workers: int | None = None,
        address: str | None = None,
        journal: Journal = NO_JOURNAL,
    ) -> None:
        self.load = load
        self.journal = journal
        self.workers, self.gpus = _started(workers, address)

    def map(
        self, models: Any, work: Work[Made], units: Iterable[Unit], on_progress: OnProgress | None
    ) -> Iterator[Made]:
        """See `decoding_evals.mapping.engine.Engine`; `models` stay here."""
        progress = Progress(on_progress)
        left = iter(units)
        for parts in self._parts(work, left):
            for part in parts:
                progress.add(part)
                yield part

    def _parts(self, work: Work[Made], units: Iterator[Unit]) -> Iterator[list[Made]]:
        """Those of each unit: first of the units that the journal holds."""
        while self.journal.recalls():
            unit = next(units, None)
            if unit is None:
                return
            yield self.journal.step(told(unit), _never)
        with self._streamed(work, units) as rows:
            for name, row in rows:
                error, parts = pickle.loads(row)
                if error is not None:
                    raise ValueError(error)
                yield self.journal.step(name, partial(_known, parts))

    @contextmanager
    def _streamed(
        self, work: Work[Made], units: Iterator[Unit]
    ) -> Iterator[Iterator[tuple[list[object], bytes]]]:
        """What tells each unit, and what an actor made of it."""
        import ray
        from ray.util.queue import Queue

        queue = Queue(maxsize=4 * self.workers, actor_options={"num_cpus": 0})
        feed = _Feed(units, queue)
        feed.start()
        # One actor is started for each worker, and none is added later.
        dataset = ray.data.read_datasource(_source(queue), override_num_blocks=1).map_batches(
            _Worker,
            fn_constructor_args=(self.load, work),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=self.workers),
            num_cpus=0 if self.gpus else 1,
            num_gpus=1 if self.gpus else 0,
        )
        try:
            yield self._rows(dataset, feed)
        finally:
            feed.stop()
            queue.shutdown(force=True)

    def _rows(self, dataset: Any, feed: _Feed) -> Iterator[tuple[list[object], bytes]]:
        count = 0
        for row in dataset.iter_rows():
            if row["number"] != count:
                raise RuntimeError(f"unit {row['number']} came where {count} is due")
            yield feed.names.pop(count), row["parts"]
            count += 1
        feed.check(count)


class _Feed(Thread):
    """Puts units into a queue while there is room in it."""

    def __init__(self, units: Iterator[Unit], queue: Any) -> None:
        super().__init__(daemon=True)
        self._units, self._queue = units, queue
        self._over = Event()
        self._error: BaseException | None = None
        self._count = 0
        self.names: dict[int, list[object]] = {}

    def run(self) -> None:
        """Read all units."""
        try:
            for unit in self._units:
                unit = sent(unit)
                self.names[self._count] = [*told(unit)]
                if not self._put((self._count, pickle.dumps(unit))):
                    return
                self._count += 1
        except BaseException as error:  # whatever is wrong with the input is said where it is used
            self._error = error
        self._put(None)

    def _put(self, item: Any) -> bool:
        from ray.util.queue import Full

        while not self._over.is_set():
            try:
                self._queue.put(item, timeout=_WAIT_SECONDS)
            except Full:
                continue
            return True
        return False

    def stop(self) -> None:
        """Read no more."""
        self._over.set()

    def check(self, count: int) -> None:
        """Raise what ended the input early."""
        self.join()
        if self._error is not None:
            raise self._error
        if count != self._count:
            raise RuntimeError(f"{count} of {self._count} units came back")


def _source(queue: Any) -> Any:
    """A data set of what a queue gives, in one reading."""
    import pyarrow
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    def blocks() -> Iterator[pyarrow.Table]:
        while (item := queue.get()) is not None:
            number, unit = item
            yield pyarrow.table({"number": [number], "unit": [unit]})

    class Units(Datasource):  # type: ignore[misc]
        """What is in the queue."""

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
            metadata = BlockMetadata(
                num_rows=None, size_bytes=None, input_files=None, exec_stats=None
            )
            return [ReadTask(blocks, metadata)]

        def estimate_inmemory_data_size(self) -> int | None:
            return None

    return Units()


class _Worker:
    """An actor: models, and what is done with a unit."""

    def __init__(self, load: Callable[[], Any], work: Work[Any]) -> None:
        self.models = load()
        self.work = work

    def __call__(self, batch: pyarrow.Table) -> dict[str, list[Any]]:
        """The parts of a unit."""
        [number], [unit] = batch["number"].to_pylist(), batch["unit"].to_pylist()
        error, parts = None, []
        try:
            parts = [*self.work.parts(self.models, pickle.loads(unit), NO_JOURNAL, _ignored)]
        except ValueError as found:  # of the input; what else goes wrong is Ray's to tell
            error = str(found)
        return {"number": [number], "parts": [pickle.dumps((error, parts))]}


def _ignored(tokens: int, mean: float) -> None:
    """Progress of an actor."""


def _known(parts: list[Made]) -> list[Made]:
    return parts


def _never() -> Any:
    raise AssertionError("a recalled step is not computed")


def _started(workers: int | None, address: str | None) -> tuple[int, bool]:
    """Connect to a cluster, or start one here: how many workers it has, and whether on GPUs."""
    try:
        import ray
        import ray.data
    except ImportError:
        raise ValueError("the engine ray needs Ray: pip install 'decoding-toolkit[ray]'") from None
    if not ray.is_initialized():
        how: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if address is None:
            how["num_cpus"] = (workers or os.cpu_count() or 1) + READERS
            how["object_store_memory"] = _STORE_BYTES
            how["include_dashboard"] = False
        try:
            with _unheard():
                ray.init(address=address or "local", **how)
        except (ConnectionError, ValueError, RuntimeError) as error:
            line = str(error).strip().splitlines()[0]
            raise ValueError(f"no cluster at {address!r}: {line}") from None
    _off_standard_output()
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Each unit is a block of its own: Ray would else wait for many.
    context.target_max_block_size = context.target_min_block_size = 1
    resources: Any = ray.cluster_resources  # which has no types
    return _places(resources(), workers)


@contextmanager
def _unheard() -> Iterator[None]:
    """Keep what Ray's own threads write off standard error; what fails comes as an exception."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _off_standard_output() -> None:
    """Have Ray say on standard error what it says of lost workers; the other is for data."""
    import ray._private.worker as driver

    def say(data: dict[str, Any], ignore_prefix: bool) -> None:
        for line in data["lines"][:1]:
            note(f"Ray: {line.partition('. ')[0]}")

    driver.print_to_stdstream = say


def _places(resources: dict[str, float], workers: int | None) -> tuple[int, bool]:
    """How many workers a cluster has room for, and whether each has a GPU.

    Raises:
        ValueError: fewer than are asked for.
    """
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    room = gpus if gpus else cpus - READERS
    wanted = max(1, room) if workers is None else workers
    if wanted > room or cpus < READERS:
        kind = "GPUs" if gpus else "CPUs"
        needed = f"{wanted} GPUs and a CPU" if gpus else f"{wanted + READERS} CPUs"
        raise ValueError(
            f"workers must fit the cluster: {wanted} need {needed}, one of which reads, and it has "
            f"{gpus if gpus else cpus} {kind}"
        )
    return wanted, bool(gpus)
