"""adaptive_p against plain float64 loops over its definition, as llama.cpp has it."""

import math

import numpy as np
import pytest
import torch

from decoding import DecodingSettings, EntropyMonitor, Sampler, TeacherForcing, TokenDocument
from decoding.rows import Distribution
from decoding.rules import AdaptiveP
from decoding.scoring.following import Follower
from decoding.settings.applying import History, Memory


class Reference:
    """The sampler of llama.cpp, one row, in float64."""

    def __init__(self, target, decay):
        self.target, self.decay = target, decay
        self.sum, self.weight = target / (1 - decay), 1 / (1 - decay)

    def q(self, logits):
        """Probabilities of what is drawn; those before are kept for `accept`."""
        weights = np.exp(logits - logits.max())
        self.p = weights / weights.sum()
        goal = min(max(2 * self.target - self.sum / self.weight, 0), 1)
        scores = np.full(len(logits), -math.inf)
        for i, probability in enumerate(self.p):
            if logits[i] > -math.inf:
                distance = abs(probability - goal) / 0.3
                scores[i] = 5 - 10 * distance * distance / (1 + distance)
        weights = np.exp(scores - scores.max())
        return weights / weights.sum()

    def accept(self, token):
        self.sum = self.p[token] + self.decay * self.sum
        self.weight = 1 + self.decay * self.weight


@pytest.mark.parametrize(("target", "decay"), [(0.3, 0.9), (1.0, 0.0), (0.05, 0.99)])
@pytest.mark.usefixtures("arrays")
def test_q_follows_the_draws(target, decay):
    setting = DecodingSettings(adaptive_p=target, adaptive_p_decay=decay)
    generator = torch.Generator().manual_seed(1)
    memory, references = Memory(), [Reference(target, decay) for _ in range(2)]
    for _ in range(30):
        logits = 2 * torch.randn(2, 40, generator=generator)
        logits[:, 5] = -math.inf
        applied = setting.apply(Distribution(logits), memory.history(torch.zeros(2, 3)))
        q = applied.final.logits.softmax(-1)
        want = np.array([r.q(z) for r, z in zip(references, logits.double().numpy(), strict=True)])
        np.testing.assert_allclose(q.numpy(), want, atol=2e-6)
        tokens = torch.multinomial(q, 1, generator=generator)[:, 0]
        memory.observe(applied, tokens)
        for reference, token in zip(references, tokens.tolist(), strict=True):
            reference.accept(token)


def test_a_larger_target_draws_more_probable_tokens():
    means = []
    for target in (0.1, 0.4, 0.8):
        generator = torch.Generator().manual_seed(2)
        processor, drawn, ids = AdaptiveP(target), [], torch.zeros(1, 1, dtype=torch.long)
        for _ in range(300):
            logits = 3 * torch.randn(1, 50, generator=generator)
            token = torch.multinomial(processor(ids, logits).softmax(-1), 1, generator=generator)
            drawn.append(logits.softmax(-1)[0, token.item()].item())
            ids = torch.cat([ids, token], -1)
        means.append(np.mean(drawn))
    assert means[0] < 0.75 * means[1] and means[1] < 0.9 * means[2]


def test_a_generation_is_scored_as_it_was_drawn(stories):
    setting = DecodingSettings(temperature=0.8, min_p=0.02, adaptive_p=0.3)
    monitor = EntropyMonitor()
    inputs = stories.tokenizer(["Once upon a time"], return_tensors="pt")
    outputs = stories.model.generate(
        **inputs, custom_generate=Sampler(setting, seed=3, monitor=monitor), max_new_tokens=25,
        **setting.generate_kwargs(),
    )  # fmt: skip
    eos = stories.model.generation_config.eos_token_id
    [trace] = monitor.traces(outputs, eos_token_id=eos)
    prompt = inputs["input_ids"][0].tolist()
    document = TokenDocument(trace.ids.tolist(), prompt)
    run = TeacherForcing(stories)
    follower = Follower([setting])
    entropies, surprisals = [], []
    for block in run.blocks(run.windows([document])):
        for row, target in enumerate(block.targets.tolist()):
            [applied] = follower.row(block, row)
            entropies.append(applied.final.entropy.item())
            surprisals.append(-applied.final.log_prob(torch.tensor([target])).item())
    np.testing.assert_allclose(entropies, trace.entropy_nats, atol=1e-4)
    np.testing.assert_allclose(surprisals, trace.surprisal_nats, atol=1e-4)


def test_a_token_that_a_cut_removed_does_not_move_it():
    setting = DecodingSettings(top_k=2, adaptive_p=0.3)
    memory, logits = Memory(), torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    before = setting.apply(Distribution(logits), memory.history(torch.zeros(1, 1)))
    memory.observe(before, torch.tensor([3]))
    assert memory.numbers[0].tolist() == pytest.approx([0.3 / (1 - 0.9), 1 / (1 - 0.9)])


def test_it_looks_back_and_stands_alone():
    with pytest.raises(ValueError, match="looks back"):
        DecodingSettings(adaptive_p=0.3).log_probs(torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"adaptive_p.*mirostat_tau|mirostat_tau.*adaptive_p"):
        DecodingSettings(adaptive_p=0.3, mirostat_tau=2)
    with pytest.raises(ValueError, match=r"adaptive_p_decay must be in \[0, 0.99\], got 1"):
        DecodingSettings(adaptive_p=0.3, adaptive_p_decay=1)
    with pytest.raises(ValueError, match="beam search draws nothing"):
        DecodingSettings(adaptive_p=0.3).generate_kwargs(num_beams=2)
    history = History(torch.zeros(1, 1))
    assert DecodingSettings(adaptive_p=0.3).log_probs(torch.zeros(1, 4), history).isfinite().all()
