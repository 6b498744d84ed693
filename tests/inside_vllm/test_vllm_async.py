"""vLLM's asynchronous engine, as its server runs it: requests that come while others are drawn."""

import asyncio
import json
import random

import pytest
from engines_for_tests import OPTIONS, PROMPTS, SETTINGS, assert_sequences, saved

import decoding
from decoding.engines import vllm as engine
from decoding.engines.requests import Request
from decoding.generation.result import Generation

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def folder(stories, tmp_path_factory):
    return saved(stories, tmp_path_factory.mktemp("stories"))


async def drawn(asynchronous, number, ids, request, lengths):
    """The ids of a request that comes a little later."""
    from vllm import SamplingParams

    await asyncio.sleep(random.Random(number).random())
    # What a client sends is JSON.
    said = json.loads(json.dumps(request.extra_args()))
    parameters = SamplingParams(temperature=0, max_tokens=30, extra_args=said)
    found = []
    async for output in asynchronous.generate(
        {"prompt_token_ids": ids}, parameters, request_id=str(number)
    ):
        found = [*output.outputs[0].token_ids]
        lengths.append(len(found))
    return found


async def all_drawn(folder, tokenizer):
    from vllm import AsyncEngineArgs
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = AsyncEngineArgs(model=folder, max_num_seqs=8, **OPTIONS | engine.ENGINE)
    asynchronous = AsyncLLM.from_engine_args(arguments)
    try:
        requests = {
            f"{setting} {prompt}": (
                tokenizer(prompt)["input_ids"],
                Request(settings=setting, seed=9, prompt=prompt, trace=f"{setting} {prompt}"),
            )
            for setting in SETTINGS
            for prompt in PROMPTS
        }
        lengths = []
        ids = await asyncio.gather(
            *(
                drawn(asynchronous, number, *of, lengths)
                for number, of in enumerate(requests.values())
            )
        )
        answers = await asynchronous.collective_rpc("decoding_traces", args=([*requests],))
        found = dict(zip(requests, engine.traces(answers, ids), strict=True))
        with pytest.raises(VLLMValidationError, match="temperature must be 0"):
            await refused(asynchronous)
        return found, lengths
    finally:
        asynchronous.shutdown()


async def refused(asynchronous):
    from vllm import SamplingParams

    asked = Request(settings="raw", seed=1).extra_args()
    parameters = SamplingParams(temperature=0.5, extra_args=asked)
    async for _ in asynchronous.generate("A", parameters, request_id="refused"):
        pass


def test_requests_that_come_and_go_have_the_tokens_of_generate(folder, stories):
    found, lengths = asyncio.run(all_drawn(folder, stories.tokenizer))
    assert {*range(1, 31)} <= {*lengths}, "tokens come one by one"
    ties = 0
    for setting in SETTINGS:
        theirs = decoding.generate(stories, PROMPTS, setting, seed=9, max_new_tokens=30)
        ours = [
            Generation(**vars(one) | {"trace": found[f"{setting} {one.prompt}"]}) for one in theirs
        ]
        for one, other in zip(ours, theirs, strict=True):
            assert len(one.trace) == len(other.trace)
        ties += assert_sequences(stories, ours, theirs)
    assert ties <= 2
