"""What travels with a request: plain values that are read again, or refused by name."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoding import DecodingSettings, EntropyPolicy
from decoding.engines.requests import NEUTRAL, Request, check_parameters
from decoding.rules.rule import NOT_NEGATIVE, Reweighting
from fake_vllm import Parameters
from some_settings import settings_of_any_kind


def in_ids(settings):
    """Without tokens that are named by texts."""
    return not any(
        isinstance(token, str)
        for rule in settings.rules
        for value in rule.given.values()
        if isinstance(value, tuple)
        for token in value
    )


@given(
    st.builds(
        Request,
        settings=settings_of_any_kind().filter(in_ids),
        seed=st.integers(0, 2**64 - 1),
        sample=st.integers(0, 9),
        prompt=st.none() | st.text(),
        trace=st.none() | st.text(),
        alternatives=st.integers(0, 9),
        certainty=st.booleans(),
    )
)
def test_what_is_read_is_what_was_said(request_):
    said = json.loads(json.dumps(request_.extra_args()))
    assert Request.read(said | {"other": 1}) == request_
    assert Request.read({"other": 1}) is None and Request.read(None) is None


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"seed": 1}, "decoding_settings must be given beside decoding_seed"),
        ({"settings": "raw"}, "decoding_seed must be given beside decoding_settings"),
        ({"settings": "raw", "seed": 1, "sed": 2}, "unknown argument decoding_sed; known are"),
        ({"settings": "top_q=1", "seed": 1}, "unknown setting 'top_q'"),
        ({"settings": "raw", "seed": -1}, r"seed must be in \[0, 2\^64\), got -1"),
        ({"settings": "raw", "seed": "1"}, "seed must be a whole number, got '1'"),
        ({"settings": "raw", "seed": 1, "sample": -2}, "sample must be >= 0, got -2"),
        ({"settings": "raw", "seed": 1, "alternatives": 0.5}, "alternatives must be a whole"),
        ({"settings": "raw", "seed": 1, "prompt": 3}, "prompt must be a text, got 3"),
        ({"settings": "raw", "seed": 1, "certainty": 2}, "certainty must be true or false, got 2"),
        ({"settings": 'dry_multiplier=1,dry_breakers="a"', "seed": 1}, "give ids instead of 'a'"),
        ({"settings": "raw while entropy<=1 else abstain", "seed": 1}, "ends a sequence"),
        ({"settings": 3, "seed": 1}, "settings must be a DecodingSettings"),
    ],
)
def test_what_cannot_be_honoured_is_refused(said, message):
    with pytest.raises(ValueError, match=message):
        Request.read({f"decoding_{name}": value for name, value in said.items()})


def test_functions_and_rules_of_ones_own_are_refused():
    class Own(Reweighting):
        """A rule that an engine's processes do not know."""

        field, neutral, range, example = "own_for_engines", 0.0, NOT_NEGATIVE, "1"

        def apply(self, rows, past):
            return rows

    with pytest.raises(ValueError, match="own_for_engines is a rule of your own"):
        Request(settings=DecodingSettings(extra=(Own(1),)), seed=0)
    policy = EntropyPolicy(entropy_above=1, then=lambda crossing: None)
    with pytest.raises(ValueError, match="asks a function"):
        Request(settings=policy, seed=0)


ASKED = Request(settings="top_p=0.9", seed=1).extra_args()
OTHERS = {
    "n": 2, "temperature": 1.0, "seed": 3, "presence_penalty": 0.5, "frequency_penalty": 0.5,
    "repetition_penalty": 1.1, "min_tokens": 3, "logit_bias": {5: 1.0}, "allowed_token_ids": [1],
    "bad_words": ["x"], "structured_outputs": object(), "thinking_token_budget": 5,
    "trace_decode_token_ids": [1],
}  # fmt: skip


@pytest.mark.parametrize("name", NEUTRAL)
def test_other_parameters_that_would_change_the_draw_are_refused_by_name(name):
    with pytest.raises(ValueError, match=f"^{name} must be {NEUTRAL[name]} beside"):
        check_parameters(Parameters(extra_args=ASKED, **{name: OTHERS[name]}))
    assert check_parameters(Parameters(**{name: OTHERS[name]})) is None
    assert check_parameters(Parameters(extra_args=ASKED, bad_words=[])).seed == 1
