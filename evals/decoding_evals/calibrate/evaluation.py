"""Calibration: the temperature that fits a text, and how much it helps on held-out text."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from decoding.inference.temperature import (
    LogNormalPrior,
    TemperatureFit,
    TemperatureSums,
    estimate_temperature,
    top_p_for_coverage,
)
from decoding.models.loading import LanguageModel
from decoding.scoring.teacher_forcing import (
    Columns,
    Document,
    Measure,
    TokenDocument,
    listed,
)
from decoding.scoring.windows import Windows
from decoding.settings.settings import DecodingSettings
from decoding_evals.calibrate.figure import plot_calibration
from decoding_evals.calibrate.quality import (
    Predictions,
    Quality,
    prediction_columns,
    quality_record,
)
from decoding_evals.calibrate.reading import (
    ReadColumns,
    Reading,
    mass_columns,
    temperature_measure,
)
from decoding_evals.calibrate.view import VIEW
from decoding_evals.mapping.engine import IN_PROCESS, Engine
from decoding_evals.mapping.units import units_of
from decoding_evals.reading.scanned import whole
from decoding_evals.showing.result import Result, finite
from decoding_evals.showing.terminal import counted, number

WARM_TOKENS = 2048
CHARACTERS_PER_TOKEN = 4

_Documents = list[Document | TokenDocument]


@dataclass(frozen=True)
class CalibrationResult(Result):
    """A temperature fitted to some documents, and its effect on others."""

    view = VIEW
    _picture = staticmethod(plot_calibration)

    model: str
    fit: TemperatureFit
    prior: LogNormalPrior
    setting: DecodingSettings
    """What to generate with: the temperature, to six digits, and top-p where it was asked for."""
    coverage: float | None
    """Share of the true tokens that the setting was to keep."""
    held_out_coverage: float | None
    """Share that it keeps of those it was not fitted to."""
    before: Quality | None
    """Under the model as it is; None where an interruption came first."""
    after: Quality | None
    """Under the fitted temperature alone."""
    split: bool
    """Whether `before` and `after` are of other documents than the fit."""
    held_out_tokens: int
    held_out_documents: int
    documents_skipped: int
    """Without text, or without tokens."""
    context: int
    stride: int
    bos: str | None
    full_logits: str | None
    complete: bool
    """False where it was interrupted: the fit is of the tokens that it names."""

    @property
    def temperature(self) -> float:
        """The likeliest temperature."""
        return self.fit.temperature

    @property
    def confidence_interval(self) -> tuple[float, float | None]:
        """Of the temperature, 95 %, by Fisher information."""
        return self.fit.confidence_interval

    def gist(self) -> tuple[str, ...]:
        """Of its `repr`."""
        fitted = counted(self.fit.tokens, "token")
        return repr(self.model), f"temperature {number(self.temperature)}", fitted

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; what is infinite or unknown is None."""
        unit = None if self.before is None else self.before.reliability
        own = (
            "coverage", "held_out_coverage", "held_out_tokens", "held_out_documents",
            "documents_skipped", "context", "stride", "bos", "full_logits", "complete",
        )  # fmt: skip
        return {
            "model": self.model,
            **{name: finite(value) for name, value in vars(self.fit).items()},
            "prior_median": self.prior.median,
            "prior_scale": self.prior.scale,
            "setting": str(self.setting),
            "top_p": self.setting.top_p,
            **quality_record(self.before, "before"),
            **quality_record(self.after, "after"),
            "ece_unit": None if unit is None else unit.ece_unit,
            "ece_units": None if unit is None else unit.units,
            "held_out": self.split,
            **{name: getattr(self, name) for name in own},
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per bin of confidence, before and after."""
        measured = {"before": self.before, "after": self.after}
        return [
            {"when": when, **row}
            for when, quality in measured.items()
            if quality is not None
            for row in quality.reliability.bins()
        ]

    def interruption(self) -> str:
        """What to say of a result that Ctrl-C cut short."""
        return f"the temperature is that of {counted(self.fit.tokens, 'token')}"


def calibrate(
    language_model: LanguageModel,
    documents: Iterable[str | Document | TokenDocument],
    *,
    held_out: float = 0.2,
    prior: LogNormalPrior | None = None,
    use_map: bool = False,
    coverage: float | None = None,
    windows: Windows = Windows(),
    engine: Engine = IN_PROCESS,
    on_progress: Callable[[int, float], None] | None = None,
) -> CalibrationResult:
    """Fit a temperature to documents and measure what it does to held-out ones.

    The first 2,048 tokens are read a few times to find a temperature to start from, then all
    documents about three times; no logits are kept. Memory holds the documents, and about 80 bytes
    for each held-out token (16 for each fitted one where `coverage` is given).

    A single document is not split, because its parts are not independent. Then, and where
    `held_out` is 0, the figures are measured on the fitted text, which makes the mean surprisal too
    small by about 1/(2·tokens) nats.

    Args:
        language_model: from `load_model`.
        documents: texts, `Document`s, or `TokenDocument`s; empty ones are left out.
        held_out: share of the documents, drawn at random but the same each time, that `before` and
            `after` are measured on, in [0, 1); of two or more documents at least one, never all.
        prior: of the temperature; default median 1 and scale 0.5.
        use_map: take the temperature of the posterior's mode into the setting.
        coverage: fit top-p too, so that the setting keeps this share of the true tokens, in (0, 1].
        windows: how the texts are read.
        engine: what reads the documents.
        on_progress: is given the number of tokens read so far, counting every reading, and the mean
            surprisal in the present one, nats.

    Where Ctrl-C ends it early, the fit is that of the first 2,048 tokens, or of all if that was
    finished, and what was not measured yet is None.

    Raises:
        ValueError: an argument is outside its range, there is no token to score, or no temperature
            fits; see `estimate_temperature`.

    Source: Guo et al. 2017, arXiv:1706.04599; Brier 1950.
    """
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out must be in [0, 1), got {held_out!r}")
    if coverage is not None and not 0 < coverage <= 1:
        raise ValueError(f"coverage must be in (0, 1], got {coverage!r}")
    prior = prior or LogNormalPrior()
    reader = _Reader(language_model, windows, engine, on_progress)
    held, skipped = _held(documents)
    fitted, others = _split(held, held_out)
    fit, complete = _fit(reader, fitted, prior)
    temperature = fit.map_temperature if use_map else fit.temperature
    tempered = DecodingSettings(temperature=float(f"{temperature:.6g}"))
    setting = tempered
    measured = Predictions()
    if complete:
        try:
            if coverage is not None and temperature:  # at 0, one token is kept anyway
                mass = partial(mass_columns, tempered)
                masses = [columns["mass"] for _, columns in reader.scan(fitted, mass)]
                top_p = top_p_for_coverage(np.concatenate(masses), coverage)
                setting = replace(tempered, top_p=top_p)
            covering = None if coverage is None else setting
            measure = partial(prediction_columns, tempered, covering)
            for document, columns in reader.scan(others or fitted, measure):
                measured.add(document, columns)
        except KeyboardInterrupt:
            complete = False
    if complete and not measured.columns:
        raise ValueError("held_out must leave something to score: those documents have no tokens")
    of_token = measured.documents()
    return CalibrationResult(
        model=language_model.name,
        fit=fit,
        prior=prior,
        setting=setting,
        coverage=coverage,
        held_out_coverage=measured.coverage(),
        before=measured.quality(""),
        after=measured.quality("fitted_"),
        split=bool(others),
        held_out_tokens=len(of_token),
        held_out_documents=len(np.unique(of_token)),
        documents_skipped=skipped,
        **reader.how,
        complete=complete,
    )


def _held(documents: Iterable[str | Document | TokenDocument]) -> tuple[_Documents, int]:
    """Documents that can be read several times, and how many empty ones were left out."""
    held: _Documents = []
    count = 0
    for item in listed(documents):
        count += 1
        if isinstance(item, TokenDocument):
            # 8 bytes a token; a list of whole numbers has four times as many.
            ids, context = array("q", item.ids), array("q", item.context)
            held += [TokenDocument(ids, context)] if ids else []
            continue
        document = whole(item)
        held += [document] if document.text else []
    return held, count - len(held)


def _split(documents: _Documents, share: float) -> tuple[_Documents, _Documents]:
    """Those to fit and those to hold out, each in their order."""
    total = len(documents)
    size = min(max(1, round(share * total)), total - 1) if share and total > 1 else 0
    out = set(np.random.default_rng(0).permutation(total)[:size].tolist())
    return (
        [document for index, document in enumerate(documents) if index not in out],
        [documents[index] for index in sorted(out)],
    )


def _beginning(documents: _Documents) -> Iterator[Document | TokenDocument]:
    """About the first 2,048 tokens."""
    left = WARM_TOKENS
    for document in documents:
        if isinstance(document, TokenDocument):
            yield TokenDocument(document.ids[:left], document.context)
            left -= len(document.ids)
        else:
            text = str(document.text)[: left * CHARACTERS_PER_TOKEN]
            yield Document(text, document.prompt)
            left -= -(-len(text) // CHARACTERS_PER_TOKEN)
        if left <= 0:
            return


def _fit(
    reader: _Reader, documents: _Documents, prior: LogNormalPrior
) -> tuple[TemperatureFit, bool]:
    """The fit, and whether it is of all the documents."""
    beginning = [*_beginning(documents)]
    start, first = 1.0, None
    if beginning != documents:
        with suppress(ValueError):  # what the beginning alone cannot fit, the whole may
            first = estimate_temperature(partial(reader.sums, beginning), prior)
            start = first.temperature or start
    try:
        return estimate_temperature(partial(reader.sums, documents), prior, start), True
    except KeyboardInterrupt:
        if first is None:
            raise
        return first, False


class _Reader:
    """Reads documents any number of times."""

    def __init__(
        self,
        language_model: LanguageModel,
        windows: Windows,
        engine: Engine,
        on_progress: Callable[[int, float], None] | None,
    ) -> None:
        self._model = language_model
        self._windows = windows
        self._engine = engine
        self._on_progress = on_progress
        self._tokens = 0
        self.how: dict[str, Any] = {}
        """`context`, `stride`, `bos` and `full_logits` of the last reading."""

    def scan(self, documents: _Documents, measure: Measure) -> Iterator[tuple[int, Columns]]:
        """One reading: the columns of each window, with the index of its document."""
        for part in self._read(Reading(self._windows, measure, summed=False), documents):
            yield from part.columns

    def sums(self, documents: _Documents, temperature: float) -> TemperatureSums:
        """The sums that determine the likeliest temperature."""
        measure = partial(temperature_measure, temperature)
        read = self._read(Reading(self._windows, measure, summed=True), documents)
        table = np.zeros((len(TemperatureSums._fields), len(documents)))
        for part in read:
            for document, columns in part.columns:
                table[:, document] += [float(columns[name][0]) for name in TemperatureSums._fields]
        return TemperatureSums(*table)

    def _read(self, work: Reading, documents: _Documents) -> Iterator[ReadColumns]:
        """One reading; the mean surprisal is shown."""
        before = self._tokens

        def tell(tokens: int, mean: float) -> None:
            self._tokens = before + tokens
            if self._on_progress is not None:
                self._on_progress(self._tokens, mean)

        units = units_of(documents, self._windows.batch_size)
        for part in self._engine.map(self._model, work, units, tell):
            self.how = part.how
            yield part
