"""LM-Polygraph on given prompts and samples; answers `lm_polygraph.py` from its own environment.

One JSON object on stdin, one on stdout. Greedy answers are LM-Polygraph's own, from its model class
and its calculators. Of the samples only the tokens are given: their log-probabilities come from
transformers, and everything that is made of them from LM-Polygraph's estimators and metrics.
"""

import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any
from zlib import crc32

ENTAILMENT, CONTRADICTION = 2, 0

Stats = dict[str, Any]


def alike(one: str, other: str) -> float:
    """A scripted similarity in (0, 1) that heeds the order of a pair, and nothing else."""
    return (crc32(f"{one}\0{other}".encode()) + 0.5) / 2**32


def log_probs(model: Any, prompt: list[int], tokens: list[int]) -> Any:
    """log p of every token of the vocabulary at each step of an answer."""
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    return logits.float().log_softmax(-1).numpy()


def greedy_stats(whitebox: Any, prompt: str, max_new_tokens: int) -> Stats:
    from lm_polygraph.stat_calculators import EntropyCalculator, GreedyProbsCalculator

    calculator = GreedyProbsCalculator(output_attentions=False)
    stats: Stats = calculator({}, [prompt], whitebox, max_new_tokens)
    return stats | EntropyCalculator()(stats)


def plain_stats(model: Any, prompt: list[int], tokens: list[int]) -> Stats:
    """What `greedy_stats` holds, without the mask that keeps EOS from the first two steps."""
    from lm_polygraph.stat_calculators import EntropyCalculator

    rows = log_probs(model, prompt, tokens)
    picked = [float(row[token]) for row, token in zip(rows, tokens, strict=True)]
    stats: Stats = {"greedy_log_probs": [rows], "greedy_log_likelihoods": [picked]}
    return stats | EntropyCalculator()(stats)


def sample_stats(
    model: Any, tokenizer: Any, prompt: list[int], samples: list[list[int]], entails: Any
) -> Stats:
    """As SamplingGenerationCalculator fills it: EOS counts in the sum and is no token."""
    import numpy as np
    from lm_polygraph.stat_calculators.semantic_classes import SemanticClassesCalculator

    sums, tokens, each = [], [], []
    for sample in samples:
        rows = log_probs(model, prompt, sample)
        picked = [float(row[token]) for row, token in zip(rows, sample, strict=True)]
        sums.append(sum(picked))
        tokens.append(sample[:-1] if sample[-1] == tokenizer.eos_token_id else sample)
        each.append(picked[: len(tokens[-1])])
    texts = [tokenizer.decode(sample) for sample in tokens]
    entails = np.array(entails)[None]
    stats: Stats = {
        "sample_log_probs": [sums],
        "sample_log_likelihoods": [each],
        "sample_tokens": [tokens],
        "sample_texts": [texts],
        "semantic_matrix_entail": np.where(entails, 0.9, 0.1),
        "semantic_matrix_contra": np.where(entails, 0.1, 0.9),
        "semantic_matrix_classes": np.where(entails, ENTAILMENT, CONTRADICTION),
        "entailment_id": ENTAILMENT,
    }
    return stats | SemanticClassesCalculator()(stats, texts, None)


class CrossEncoder:
    """Where its calculators have a model of similarity, the scripted one."""

    def predict(self, pairs: Sequence[tuple[str, str]], batch_size: int = 1) -> Any:
        import numpy as np

        return np.array([alike(*pair) for pair in pairs])


def similarity_stats(whitebox: Any, asked: Stats, tokens: list[int], samples: Stats) -> Stats:
    """Its similarities of answers and of tokens, and what its estimators take from them."""
    import numpy as np
    from lm_polygraph.stat_calculators.cross_encoder_similarity import (
        CrossEncoderSimilarityMatrixCalculator,
    )
    from lm_polygraph.stat_calculators.greedy_cross_encoder_similarity import (
        GreedyCrossEncoderSimilarityMatrixCalculator,
    )

    texts = [asked["texts"]]
    stats: Stats = {
        "input_texts": [asked["prompt"]], "greedy_texts": [asked["greedy"]],
        "greedy_tokens": [tokens], "sample_texts": texts,
        "sample_tokens": samples["sample_tokens"],
    }  # fmt: skip
    for kind in (
        CrossEncoderSimilarityMatrixCalculator,
        GreedyCrossEncoderSimilarityMatrixCalculator,
    ):
        calculator = kind()
        calculator.crossencoder, calculator.crossencoder_setup = CrossEncoder(), True
        stats |= calculator(stats, [asked["prompt"]], whitebox)
    return stats | {"semantic_matrix_entail": np.array(stats["sample_sentence_similarity"])}


def is_true(whitebox: Any, prompt: str, answer: str) -> list[float] | None:
    """Its `PTrue`, and the same where EOS is not masked; None where "True" is no single token,
    which it asserts."""
    from lm_polygraph.estimators import PTrue
    from lm_polygraph.stat_calculators.prompt import PromptCalculator

    calculator, tokenizer = PromptCalculator(), whitebox.tokenizer
    stats = {"input_texts": [prompt], "greedy_texts": [f" {answer}"]}
    try:
        own = calculator(stats, [prompt], whitebox)
    except AssertionError:
        return None
    asked = calculator.prompt.format(q=prompt, a=f" {answer}")
    [token] = tokenizer(calculator.expected, add_special_tokens=False)["input_ids"]
    plain = log_probs(whitebox.model, tokenizer(asked)["input_ids"], [token])[0, token]
    return [float(PTrue()(one)[0]) for one in (own, {"p_true": [plain]})]


def estimates(estimators: list[Any], stats: Stats) -> dict[str, float]:
    return {str(estimator): float(estimator(stats)[0]) for estimator in estimators}


def answer(folder: str, prompts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Its estimates of each prompt, and the tokens of its greedy answer."""
    from lm_polygraph import estimators as of
    from lm_polygraph.estimators.label_prob import LabelProb
    from lm_polygraph.utils.model import WhiteboxModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:  # it asks for padding, and has one prompt at a time
        tokenizer.pad_token = tokenizer.eos_token
    whitebox = WhiteboxModel(model, tokenizer)
    greedy = [
        of.MaximumSequenceProbability(),
        of.Perplexity(),
        of.MeanTokenEntropy(),
        of.SelfCertainty(),
        of.RenyiNeg(),
    ]
    sampled = [
        of.MonteCarloSequenceEntropy(),
        of.MonteCarloNormalizedSequenceEntropy(),
        of.LexicalSimilarity("rougeL"),
        of.SemanticEntropy(),
        of.SemanticEntropy(class_probability_estimation="frequency"),
        LabelProb(),
        of.NumSemSets(),
    ]
    of_likeness = [
        of.DegMat(), of.EigValLaplacian(), of.Eccentricity(), of.CocoaMSP(), of.CocoaPPL(),
        of.CocoaMTE(), of.TokenSAR(), of.SentenceSAR(), of.SAR(),
    ]  # fmt: skip
    of_all_tokens = of.MaxTokenEntropyClaim()
    answers = []
    for asked in prompts:
        ids = tokenizer(asked["prompt"])["input_ids"]
        own = greedy_stats(whitebox, asked["prompt"], asked["max_new_tokens"])
        [tokens] = own["greedy_tokens"]
        claim = type("Claim", (), {"aligned_token_ids": list(range(len(tokens)))})
        found = {}
        for name, stats in (("greedy", own), ("unmasked", plain_stats(model, ids, tokens))):
            [[most]] = of_all_tokens(stats | {"claims": [[claim]]})
            found[name] = estimates(greedy, stats) | {str(of_all_tokens): float(most)}
        stats = sample_stats(model, tokenizer, ids, asked["samples"], asked["entails"])
        found["sampled"] = estimates(sampled, stats)
        # It spells special tokens out, such as a BOS between two stories.
        [kept] = stats["sample_tokens"]
        texts = [tokenizer.decode(sample, skip_special_tokens=True) for sample in kept]
        found["bare"] = estimates([of.LexicalSimilarity("rougeL")], {"sample_texts": [texts]})
        if all(kept):
            plain = plain_stats(model, ids, tokens)
            shared = stats | plain | similarity_stats(whitebox, asked, tokens, stats)
            found["alike"] = estimates(of_likeness, shared)
        true = is_true(whitebox, asked["prompt"], asked["greedy"])
        if true is not None:
            found["true"], found["plainly true"] = ({"PTrue": value} for value in true)
        answers.append(found | {"tokens": tokens})
    return answers


def metrics(uncertainty: list[float], quality: list[float], correct: list[bool]) -> Any:
    """Its manager's PRR, and the metrics that it hands uncertainties to."""
    import numpy as np
    from lm_polygraph.ue_metrics import ROCAUC, PredictionRejectionArea, RiskCoverageCurveAUC
    from lm_polygraph.ue_metrics.ue_metric import get_random_scores, normalize_metric

    values, good = np.array(uncertainty), np.array(quality)
    found = {
        "roc-auc": ROCAUC()(values, [not right for right in correct]),
        "rcc-auc": RiskCoverageCurveAUC()(values, np.array(correct, dtype=float)),
    }
    for area in (PredictionRejectionArea(), PredictionRejectionArea(max_rejection=0.5)):
        found[f"{area}_normalized"] = normalize_metric(
            area(values, good), area(-good, good), get_random_scores(area, good)
        )
    return {name: float(value) for name, value in found.items()}


def rouge(pairs: list[list[str]]) -> list[float]:
    from lm_polygraph.generation_metrics.rouge import RougeMetric

    answers, references = zip(*pairs, strict=True)
    return RougeMetric("rougeL")({"greedy_texts": list(answers)}, list(references)).tolist()


def work() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is printed otherwise goes to stderr
    import torch

    torch.set_num_threads(1)
    request = json.load(sys.stdin)
    functions = {"answer": answer, "metrics": metrics, "rouge": rouge}
    value = [functions[ask](**arguments) for ask, arguments in request]
    names = ("lm-polygraph", "rouge_score", "torch", "transformers")
    json.dump({"value": value, "versions": {name: version(name) for name in names}}, answers)
    answers.close()


if __name__ == "__main__":
    work()
