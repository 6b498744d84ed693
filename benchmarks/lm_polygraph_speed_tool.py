"""LM-Polygraph's side of `lm_polygraph_speed.py`, in its own environment.

A line on stdin says what is common to all chunks, and each one behind it is a chunk of prompts; a
line on stdout says what CPU time it took.
"""

import json
import os
import sys
import time
from typing import Any

SAMPLES = 0


def load_stat_calculator(config: Any, environment: Any) -> Any:
    """Builds the calculator of samples, of which its own builder always takes ten."""
    from lm_polygraph.stat_calculators import SamplingGenerationCalculator

    return SamplingGenerationCalculator(SAMPLES)


def calculators() -> list[Any]:
    """Its usual ones, with so many samples, and without attentions and hidden states of the greedy
    answer, which no estimator here asks for."""
    from lm_polygraph.defaults.register_default_stat_calculators import (
        register_default_stat_calculators,
    )

    found = register_default_stat_calculators(
        "Whitebox", output_attentions=False, output_hidden_states=False
    )
    for container in found:
        if container.name == "SamplingGenerationCalculator":
            container.builder = __name__
    return found


def estimators() -> list[Any]:
    """Those that ours has, too, without another model; three by a likeness of their own."""
    from lm_polygraph import estimators as of

    return [
        of.MaximumSequenceProbability(), of.Perplexity(), of.MeanTokenEntropy(),
        of.SelfCertainty(), of.RenyiNeg(), of.PTrue(),
        of.MonteCarloSequenceEntropy(), of.MonteCarloNormalizedSequenceEntropy(),
        of.LexicalSimilarity("rougeL"),
        of.DegMat("Jaccard_score"), of.EigValLaplacian("Jaccard_score"),
        of.Eccentricity("Jaccard_score"),
    ]  # fmt: skip


def main() -> None:
    """Load a model, and answer chunk after chunk."""
    global SAMPLES
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed otherwise goes to stderr
    import torch
    from lm_polygraph.utils.builder_enviroment_stat_calculator import (
        BuilderEnvironmentStatCalculator,
    )
    from lm_polygraph.utils.dataset import Dataset
    from lm_polygraph.utils.generation_parameters import GenerationParameters
    from lm_polygraph.utils.manager import UEManager
    from lm_polygraph.utils.model import WhiteboxModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    given = json.loads(sys.stdin.readline())
    SAMPLES = given["samples"]
    torch.manual_seed(given["seed"])
    model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(given["model"], padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    whitebox = WhiteboxModel(
        model, tokenizer, given["model"],
        generation_parameters=GenerationParameters(top_k=0, stop_strings=given["stop"]),
    )  # fmt: skip
    for line in sys.stdin:
        chunk = json.loads(line)
        prompts, size = chunk["prompts"], chunk["batch_size"]
        manager = UEManager(
            Dataset(prompts, [""] * len(prompts), batch_size=size), whitebox, estimators(),
            available_stat_calculators=calculators(), ignore_exceptions=False, verbose=False,
            builder_env_stat_calc=BuilderEnvironmentStatCalculator(whitebox),
            generation_metrics=[], ue_metrics=[], processors=[],
            max_new_tokens=given["max_new_tokens"],
        )  # fmt: skip
        begin = time.process_time()
        manager()
        seconds = time.process_time() - begin
        found = {name: values for (_, name), values in manager.estimations.items()}
        tokens = [len(ids) for ids in manager.stats["greedy_tokens"]]
        told = {"seconds": seconds, "estimates": found, "tokens": tokens}
        answers.write(json.dumps(told) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
