"""What `import decoding_evals` gives, and what its functions say to what is no `LanguageModel`."""

import subprocess
import sys

import pytest

import decoding_evals
from commands import each_alone
from decoding import DecodingSettings, TeacherForcing, generate
from decoding_cli.app import COMMANDS, OWN
from decoding_evals.compare import compare_models
from decoding_evals.score import score_choices
from decoding_evals.uncertainty.estimators.context_gain import ContextRow, context_gain

EVALUATIONS = [name for name in COMMANDS if name not in OWN]


def test_every_evaluation_is_at_hand():
    asked = [
        f"import decoding_evals as d; print(d.{name}.{name}.__module__)" for name in EVALUATIONS
    ]
    found = each_alone("decoding.generation.run, decoding.models.loading", asked)
    for name, module in zip(EVALUATIONS, found, strict=True):
        assert module.startswith(f"decoding_evals.{name}.")
    assert set(EVALUATIONS) <= set(dir(decoding_evals))


def test_only_what_is_asked_for_is_imported():
    program = "import sys, decoding_evals; decoding_evals.perplexity; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout == "False\n", found.stderr
    with pytest.raises(AttributeError, match="no attribute 'perplexiti'"):
        _ = decoding_evals.perplexiti


CALLS = {
    "generate": lambda given: generate(given, "Once"),
    "TeacherForcing": TeacherForcing,
    "compare_models": lambda given: compare_models(given, given, ["Once"]),
    "score_choices": lambda given: [*score_choices(given, [("Once", [" upon"])])],
    "context_gain": lambda given: [*context_gain(given, [ContextRow("a", "b", "c")])],
    "identify": lambda given: [
        *decoding_evals.identify.identify(given, ["Once"], [DecodingSettings()])
    ],
    "identify several": lambda given: decoding_evals.identify.identify([given], ["Once"], []),
    "compare": lambda given: decoding_evals.compare.compare(given, ["a"], [DecodingSettings()]),
    "perplexity of another": lambda given: decoding_evals.perplexity.perplexity(
        given, ["Once"], protocol="huggingface"
    ),
    "doctor": lambda given: decoding_evals.doctor.doctor(given),
}
for name in ("perplexity", "score", "uncertainty", "calibrate", "attention"):
    CALLS[name] = lambda given, name=name: [
        *[getattr(getattr(decoding_evals, name), name)(given, ["Once upon"])][0]
    ]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_bare_model_is_told_what_to_pass(stories, call):
    for given in (stories.model, "builtin:stories"):
        with pytest.raises(TypeError) as error:
            call(given)
        assert str(error.value) == (
            f"language_model must be a LanguageModel, got {type(given).__name__}; take that of "
            "load_model(name), or wrap a pair of your own as LanguageModel(model, tokenizer)"
        )
