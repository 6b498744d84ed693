"""One reading of documents: columns of measures, or their sums over each document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from decoding.inference.temperature import mass_before, temperature_columns
from decoding.information.statistics import row_statistics
from decoding.models.loading import LanguageModel
from decoding.passes.journal import Journal
from decoding.scoring.blocks import LogitBlock
from decoding.scoring.teacher_forcing import Columns, Measure, TeacherForcing
from decoding.scoring.windows import Windows
from decoding.settings.applying import apply_settings
from decoding.settings.settings import DecodingSettings
from decoding_evals.mapping.engine import OnProgress
from decoding_evals.mapping.units import Unit


@dataclass
class ReadColumns:
    """What was measured of the windows of a unit."""

    columns: list[tuple[int, Columns]]
    """With the index of the document."""
    tokens: int
    surprisal: float
    """Of them, nats."""
    how: dict[str, Any]
    """`context`, `stride`, `bos` and `full_logits`."""

    def counted(self) -> tuple[int, float]:
        """Tokens, and their surprisal."""
        return self.tokens, self.surprisal


@dataclass(frozen=True)
class Reading:
    """Measures the documents of a unit; one of the measures is a surprisal."""

    windows: Windows
    measure: Measure
    summed: bool
    """Whether columns hold the sum over a document alone."""

    def parts(
        self, models: LanguageModel, unit: Unit, journal: Journal, on_progress: OnProgress
    ) -> Iterator[ReadColumns]:
        """The columns of a unit."""
        run = TeacherForcing(models, self.windows, journal=journal, first=unit.first)
        part = ReadColumns([], 0, 0.0, {})
        ended = None
        try:
            for window, columns in run.scan(unit.documents, self.measure):
                part.tokens += len(window.targets)
                part.surprisal += float(columns["surprisal"].sum())
                if not self.summed:
                    part.columns.append((window.document, columns))
                elif part.columns and part.columns[-1][0] == window.document:
                    for name, values in part.columns[-1][1].items():
                        values += columns[name].sum(keepdims=True)
                else:
                    sums = {name: values.sum(keepdims=True) for name, values in columns.items()}
                    part.columns.append((window.document, sums))
                on_progress(part.tokens, part.surprisal / part.tokens)
        except KeyboardInterrupt as error:
            ended = error
        part.how = {
            "context": run.context, "stride": run.stride, "bos": run.bos_token,
            "full_logits": run.full_logits,
        }  # fmt: skip
        yield part
        if ended is not None:
            raise ended


def temperature_measure(temperature: float, block: LogitBlock) -> dict[str, Tensor]:
    """What determines the likeliest temperature, see `TemperatureSums`."""
    return temperature_columns(block.logits, block.targets, temperature)


def mass_columns(tempered: DecodingSettings, block: LogitBlock) -> dict[str, Tensor]:
    """The mass in front of each true token, which determines top-p."""
    z = apply_settings(tempered, block.logits)
    q = row_statistics(z, block.targets)
    assert q.target_log_prob is not None
    return {"mass": mass_before(z, block.targets), "surprisal": -q.target_log_prob}
