"""vLLM in this very process: requests that ask for nothing, and those that are refused."""

import pytest
import torch
from engines_for_tests import PROMPTS, SETTINGS, assert_sequences, llm, saved

import decoding
from decoding.engines import vllm as engine
from decoding.engines.requests import Request

pytestmark = pytest.mark.vllm
ASKED = Request(settings="top_p=0.9", seed=1).extra_args()


@pytest.fixture(scope="module")
def inside(stories, tmp_path_factory):
    with llm(saved(stories, tmp_path_factory.mktemp("stories")), in_process=True) as made:
        yield made


@pytest.mark.parametrize("setting", SETTINGS[:4])
def test_tokens_and_traces_are_those_of_generate(inside, stories, setting):
    options = {"seed": 5, "max_new_tokens": 30}
    ours = engine.generate(inside, PROMPTS, setting, **options)
    theirs = decoding.generate(stories, PROMPTS, setting, **options)
    assert assert_sequences(stories, ours, theirs) <= 1


def test_a_request_that_asks_for_nothing_is_vllms_own(inside, stories):
    """Greedy search of vLLM and of transformers, beside rows that are drawn here."""
    from vllm import SamplingParams

    plain = SamplingParams(temperature=0, max_tokens=25, ignore_eos=True)
    asked = SamplingParams(temperature=0, max_tokens=25, ignore_eos=True, extra_args=ASKED)
    ids = [stories.tokenizer(text)["input_ids"] for text in PROMPTS]
    prompts = [{"prompt_token_ids": one} for one in ids for _ in range(2)]
    outputs = inside.generate(prompts, [plain, asked] * len(PROMPTS), use_tqdm=False)
    different = 0
    for one, alone, drawn in zip(ids, outputs[::2], outputs[1::2], strict=True):
        with torch.no_grad():
            want = stories.model.generate(
                torch.tensor([one]), do_sample=False, max_new_tokens=25, eos_token_id=None,
                pad_token_id=0,
            )  # fmt: skip
        assert [*alone.outputs[0].token_ids] == want[0, len(one) :].tolist()
        different += [*drawn.outputs[0].token_ids] != [*alone.outputs[0].token_ids]
    assert different == len(PROMPTS)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"temperature": 0.7}, "temperature must be 0 beside decoding_settings"),
        ({"seed": 3}, "seed must be None beside decoding_settings.*say decoding_seed"),
        ({"repetition_penalty": 1.2}, "repetition_penalty must be 1"),
        ({"logit_bias": {5: 1.0}}, "logit_bias must be None"),
        ({"min_tokens": 2}, "min_tokens must be 0"),
        ({"bad_words": ["dog"]}, "bad_words must be None"),
        ({"allowed_token_ids": [3, 4]}, "allowed_token_ids must be None"),
        ({"extra_args": ASKED | {"decoding_sed": 1}}, "unknown argument decoding_sed"),
        ({"extra_args": {"decoding_seed": 1}}, "decoding_settings must be given"),
        ({"temperature": 1, "n": 2}, "n must be 1 .*give each sample a request of its own"),
    ],
)
def test_a_request_that_cannot_be_honoured_is_refused(inside, parameters, message):
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    given = {"temperature": 0, "extra_args": ASKED} | parameters
    with pytest.raises(VLLMValidationError, match=message):
        inside.generate("A", SamplingParams(**given), use_tqdm=False)
    [left] = inside.generate("A", SamplingParams(temperature=0, max_tokens=3), use_tqdm=False)
    assert len(left.outputs[0].token_ids) == 3


def test_an_engine_without_the_processor_is_refused(inside, monkeypatch):
    monkeypatch.setattr(inside.llm_engine.vllm_config.model_config, "logits_processors", None)
    with pytest.raises(ValueError, match="must be made with this library's processor"):
        engine.generate(inside, "A")


def test_every_parameter_that_would_change_the_draw_is_known():
    """A later vLLM may have further ones: each is neutral, refused, or changes no distribution."""
    from vllm import SamplingParams

    from decoding.engines.requests import NEUTRAL

    put_aside_at_temperature_0 = {"top_p", "top_k", "min_p"}
    ends = {"stop", "stop_token_ids", "ignore_eos", "max_tokens", "repetition_detection"}
    reported = {
        "logprobs", "prompt_logprobs", "prompt_logprob_token_ids", "prompt_logprob_start",
        "logprob_token_ids", "flat_logprobs", "detokenize", "skip_special_tokens",
        "spaces_between_special_tokens", "include_stop_str_in_output", "output_kind",
        "stream_interval", "routed_experts_prompt_start",
    }  # fmt: skip
    handled = {"skip_clone", "output_text_buffer_length", "extra_args", "skip_reading_prefix_cache"}
    of_runner_v2 = {"watermarking"}
    known = {*NEUTRAL, *put_aside_at_temperature_0, *ends, *reported, *handled, *of_runner_v2}
    fields = {name for name in SamplingParams.__struct_fields__ if not name.startswith("_")}
    assert fields == known
