"""Rows of a data set, as the `datasets` library reads them."""

from __future__ import annotations

import atexit
import gc
import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from decoding_evals.reading.folders import check_card
from decoding_evals.reading.rows import Row, Rows, listed, require
from decoding_evals.shell.output import check_source


def dataset_rows(spec: str) -> Rows:
    """The rows of one split of a data set, as the `datasets` library reads them.

    Args:
        spec: `NAME[:CONFIG][:SPLIT]`. NAME is a local folder where one exists (colons in its path
            are no separators then), else a hub name. A single part after it is a configuration if
            the data set has one of that name, else a split; `NAME::SPLIT` is always a split.
            Without a split it is the only one, else `test`.

    Raises:
        click.UsageError: another form, or a file.
        click.ClickException: no `datasets` library, no such data set, configuration or split.
    """
    name, parts = _named(spec)
    for file in Path(name).rglob("*") if Path(name).is_dir() else ():
        check_source(file)
    try:
        import datasets
    except ImportError:
        raise click.ClickException(
            "--dataset needs the datasets library: pip install 'decoding-toolkit[datasets]'"
        ) from None
    _quiet_datasets()
    atexit.register(_outlive_readers)
    try:
        saved = _saved(name)
        folder = Path(os.path.realpath(name))
        if folder.is_dir():
            check_card(folder, name)
        # Not by its name, which may also be that of a format, such as `csv`.
        place = str(folder) if folder.is_dir() else name
        if len(parts) == 1:
            configs = datasets.get_dataset_config_names(place) if saved is None else []
            parts = [*parts, ""] if parts[0] in configs else ["", *parts]
        config, split = parts or ("", "")
        if saved is not None and config:
            raise ValueError("it was saved without configurations")
        splits = saved
        if splits is None:
            splits = datasets.load_dataset(place, config or None, streaming=True)
    except Exception as error:  # whatever a loader makes of a broken file or no network
        raise click.ClickException(f"cannot load data set {name!r}: {error}") from error
    split = split or (next(iter(splits)) if len(splits) == 1 else "test")
    if split not in splits:
        raise click.ClickException(
            f"data set {name!r} has no split {split!r}; choose from {listed(splits)}, "
            f"as in {f'{name}:{config}:{next(iter(splits))}'!r}"
        )
    return Rows(spec, "row", partial(_dataset, splits[split], spec))


def _saved(name: str) -> dict[str, Any] | None:
    """The splits of a folder that `save_to_disk` wrote; None for any other data set."""
    import datasets

    if not any((Path(name) / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
        return None
    saved = datasets.load_from_disk(name)
    return saved if isinstance(saved, dict) else {str(saved.split or "train"): saved}


def _dataset(data: Any, source: str, columns: Sequence[str] | None) -> Iterator[Row]:
    try:
        # Streamed CSV and text files tell their columns only with the first row.
        existing = data.column_names or list(next(iter(data), {}))
        if existing:
            columns = existing if columns is None else columns
            require(columns, existing, source)
            yield from enumerate(data.select_columns(list(columns)), 1)
    except click.ClickException:
        raise
    except Exception as error:  # whatever a loader makes of a broken file or no network
        raise click.ClickException(f"cannot read data set {source!r}: {error}") from error


def _named(spec: str) -> tuple[str, list[str]]:
    """The name in `NAME[:CONFIG][:SPLIT]` and what follows it."""
    parts = spec.split(":")
    whole = range(len(parts), 1, -1)
    length = next((n for n in whole if Path(":".join(parts[:n])).exists()), 1)
    name, rest = ":".join(parts[:length]), parts[length:]
    if not name or len(rest) > 2:
        raise click.UsageError(f"--dataset takes NAME[:CONFIG][:SPLIT], got {spec!r}")
    if Path(name).is_file():
        raise click.UsageError(f"--dataset takes no file; give {name!r} as FILES instead")
    if not Path(name).exists() and (Path(name).is_absolute() or name.startswith((".", "~"))):
        raise click.ClickException(f"data set folder {name!r} does not exist")
    return name, rest


def _outlive_readers() -> None:
    """Let Arrow's threads end before Python does.

    Threads that still read ahead in a parquet file abort a process that ends before them
    (apache/arrow#45214), and nothing but time tells when they are done.
    """
    gc.collect()
    time.sleep(0.3)


def _quiet_datasets() -> None:
    """Keep the loader's bars, advice and retries off the user's terminal."""
    import datasets
    from datasets.utils import logging
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import disable_progress_bars

    datasets.disable_progress_bars()
    disable_progress_bars()
    logging.set_verbosity(logging.CRITICAL)
    hub_logging.set_verbosity(logging.CRITICAL)
