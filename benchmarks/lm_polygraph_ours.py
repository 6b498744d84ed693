"""What ours says of the prompts that `lm_polygraph.py` compares LM-Polygraph on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lm_polygraph_tool import alike

from decoding import DecodingSettings, generate, load_model
from decoding.inference.sequences import sequence_entropy
from decoding_evals.judging.entailment import entailment_clusters
from decoding_evals.judging.similarity import SimilarityModel, likeness
from decoding_evals.score.evaluation import score_choices
from decoding_evals.uncertainty.estimators import probabilities as estimators
from decoding_evals.uncertainty.estimators.p_true import QUESTION, TRUE, p_true
from decoding_evals.uncertainty.estimators.similarities import likeness_estimates

SAMPLES = 10
SEED = 1


class Scripted(SimilarityModel):
    """`alike` in the place of a model."""

    name = "script"

    def __init__(self) -> None:
        """There is nothing to load."""

    def of_pairs(self, pairs: Sequence[tuple[str, str]]) -> Any:
        return np.array([alike(*pair) for pair in pairs])

    def __call__(self, texts: Sequence[str]) -> Any:
        return np.array([[alike(one, other) for other in texts] for one in texts])


@dataclass
class Answers:
    """What ours says of one prompt."""

    model: Any
    prompt: str
    max_new_tokens: int
    reference: str
    greedy: Any
    samples: list[Any]
    entails: Any
    """`(samples, samples)`, the scripted verdicts of entailment."""

    def request(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt,
            "max_new_tokens": self.max_new_tokens,
            "samples": [sample.trace.ids.tolist() for sample in self.samples],
            "entails": self.entails.tolist(),
            "texts": [estimators.answer(sample) for sample in self.samples],
            "greedy": estimators.answer(self.greedy),
        }

    def estimates(self) -> dict[str, float | None]:
        traces = [sample.trace for sample in self.samples]
        entropy = sequence_entropy(
            [trace.surprisal_nats for trace in traces], [trace.entropy_nats for trace in traces]
        )
        labels = entailment_clusters([sample.text for sample in self.samples], scripted)
        of_greedy = estimators.greedy_estimates(self.greedy)
        answer, similarity = estimators.answer(self.greedy), Scripted()
        alike = likeness([*map(estimators.answer, self.samples)], answer, similarity=similarity)
        tokenizer = self.model.tokenizer
        vocabulary = self.model.model.config.vocab_size
        divergence = -(of_greedy["RenyiNeg"] or 0.0)
        question = QUESTION.format(question=self.prompt, answer=answer)
        [bare] = score_choices(self.model, [(question, [TRUE])])
        return {
            **of_greedy,
            "RenyiNeg as there": divergence - 2 * math.log(vocabulary),
            "PTrue": p_true(self.model, [(self.prompt, answer)])[0],
            "PTrue as there": -bare.log_probs_nats()[0],
            **estimators.sample_estimates(self.samples, entropy),
            **estimators.cluster_estimates(labels, estimators.surprisals(self.samples)),
            **likeness_estimates(
                alike, self.greedy, self.samples,
                asked=self.prompt, tokenizer=tokenizer, similarity=similarity,
            ),
        }  # fmt: skip


def scripted(texts: Sequence[str]) -> Any:
    """A text entails another where it holds the other's first word: no symmetry, no transitivity,
    and every text entails itself."""
    words = [text.lower().split() for text in texts]
    return np.array([[set(other[:1]) <= set(one) for other in words] for one in words])


def our_answers(folder: Path, tasks: list[tuple[str, str, int]]) -> list[Answers]:
    loaded = load_model(str(folder))

    def answers(settings: DecodingSettings, tokens: int, samples: int) -> Any:
        prompts = [prompt for prompt, _, most in tasks if most == tokens]
        return iter(
            generate(
                loaded, prompts, settings, max_new_tokens=tokens,
                num_return_sequences=samples, seed=SEED, batch_size=20, certainty=True,
            )
        )  # fmt: skip

    lengths = {most for _, _, most in tasks}
    greedy = {most: answers(DecodingSettings(temperature=0), most, 1) for most in lengths}
    drawn = {most: answers(DecodingSettings(), most, SAMPLES) for most in lengths}
    result = []
    for prompt, reference, most in tasks:
        samples = [next(drawn[most]) for _ in range(SAMPLES)]
        entails = scripted([sample.text for sample in samples])
        best = next(greedy[most])
        result.append(Answers(loaded, prompt, most, reference, best, samples, entails))
    return result


def prompts_of(stories: list[str], ending: int, middle: int) -> list[tuple[str, str, int]]:
    """Each story twice: without its last words, and its first half, to be continued by little."""
    tasks = []
    for story in stories:
        words = story.strip().split(" ")
        tasks.append((" ".join(words[:-12]), " ".join(words[-12:]), ending))
        half = len(words) // 2
        tasks.append((" ".join(words[:half]), " ".join(words[half : half + 2]), middle))
    return tasks
