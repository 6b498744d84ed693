"""The models that `decoding uncertainty` asks for, here or in a worker elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from decoding_evals.shell.options import WHERE, read_model

if TYPE_CHECKING:
    from decoding.models.loading import LanguageModel
    from decoding_evals.uncertainty.evaluation import Answerers

OPTIONS = (
    "model", "members", "mc_dropout", "nli_model", "similarity_model", "device", "dtype", *WHERE,
)  # fmt: skip


def read_models(options: dict[str, Any]) -> tuple[LanguageModel, list[LanguageModel]]:
    """The model that answers, by default the first member, and the members of an ensemble."""
    loaded = [read_model(options, name) for name in options["members"]]
    return loaded[0] if options["model"] is None else read_model(options), loaded


def read_answerers(options: dict[str, Any], seed: int) -> Answerers:
    """All of them, loaded."""
    from decoding_evals.uncertainty.evaluation import Answerers

    language_model, loaded = read_models(options)
    return Answerers(language_model, **others(options, language_model, loaded, seed))


def others(
    options: dict[str, Any],
    language_model: LanguageModel,
    loaded: Sequence[LanguageModel],
    seed: int,
) -> dict[str, Any]:
    """Those that do not answer, as `uncertainty` takes them."""
    from decoding.models.devices import input_device
    from decoding_evals.judging.entailment import EntailmentModel
    from decoding_evals.judging.similarity import SimilarityModel
    from decoding_evals.shell.progress import status
    from decoding_evals.uncertainty.estimators.epistemic import checkpoint_members, dropout_members

    if loaded:
        # The one that answers has to share the members' vocabulary.
        checkpoint_members([language_model, *loaded])
    found: dict[str, Any] = {"members": checkpoint_members(loaded) if loaded else ()}
    device, trust = input_device(language_model.model), options["trust_remote_code"]
    for name, kind, option_name in (
        ("entailment", EntailmentModel, "nli_model"),
        ("similarity", SimilarityModel, "similarity_model"),
    ):
        if (folder := options[option_name]) is not None:
            with status(f"loading {folder}"):
                found[name] = kind(folder, device=device, trust_remote_code=trust)
    if options["mc_dropout"]:
        found["dropout"] = dropout_members(language_model, options["mc_dropout"], seed=seed)
    return found
