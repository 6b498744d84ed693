"""What vLLM does to a logits processor, without vLLM: rows come, go, move and are thrown away.

`FakeLLM` has what `decoding.engines.vllm` asks of a `vllm.LLM`. Its logits are a model's own, each
row read anew. At each step, at random: requests are taken out and begin to read again, prompts are
read in parts, whose draws are thrown away, rows change places, and requests of others take part.
"""

import copy
import enum
import sys
from types import ModuleType, SimpleNamespace

import torch

from decoding.engines import vllm as engine
from decoding.engines.requests import NEUTRAL
from decoding.engines.vllm_worker import SettingProcessor, TraceExtension

FOREIGN = 5
"""The token that requests of others take."""


class Direction(enum.Enum):
    UNIDIRECTIONAL = enum.auto()
    SWAP = enum.auto()


class Parameters(SimpleNamespace):
    """As vLLM's, with those of its defaults that matter here."""

    def __init__(self, **given):
        super().__init__(**NEUTRAL | {"extra_args": None, "max_tokens": 16} | given)


def installed(monkeypatch):
    """Let `from vllm import SamplingParams` find the fake ones."""
    module = ModuleType("vllm")
    module.SamplingParams = Parameters
    monkeypatch.setitem(sys.modules, "vllm", module)


class Sequence:
    def __init__(self, id_, prompt, parameters):
        self.id, self.prompt, self.parameters = id_, prompt, copy.deepcopy(parameters)
        self.output, self.real, self.reason = [], [], None
        self.read = 0  # of the prompt and the output

    def finish(self, text):
        last, ends = self.real[-1], getattr(self.parameters, "stop_token_ids", ())
        if last in ends:
            self.reason = ("stop", last)
        elif found := [one for one in getattr(self.parameters, "stop", ()) if one in text]:
            self.reason = ("stop", found[0])
        elif len(self.real) >= self.parameters.max_tokens:
            self.reason = ("length", None)
        return self.reason is not None


class Worker(TraceExtension):
    def __init__(self, processor):
        processors = SimpleNamespace(all=iter([object(), processor]))
        batch = SimpleNamespace(logitsprocs=processors)
        self.model_runner = SimpleNamespace(input_batch=batch)


class FakeLLM:
    """A `vllm.LLM`.

    Args:
        language_model: whose logits it gives.
        rng: chooses what happens.
        rows: at most so many at a time.
        asynchronous: the engine knows a token one step later; until then it holds -1.
    """

    def __init__(self, language_model, rng, *, rows=3, asynchronous=False, max_model_len=64):
        self.language_model, self.rng, self.most = language_model, rng, rows
        self.asynchronous = asynchronous
        config = language_model.model.config
        self.model_config = SimpleNamespace(
            model="fake",
            logits_processors=[engine.PROCESSOR],
            max_model_len=max_model_len,
            hf_text_config=config,
            enable_prompt_embeds=False,
            try_get_generation_config=lambda: {"eos_token_id": config.eos_token_id},
            get_vocab_size=lambda: config.vocab_size,
        )
        parallel = SimpleNamespace(worker_extension_cls=engine.EXTENSION)
        self.vllm_config = SimpleNamespace(model_config=self.model_config, parallel_config=parallel)
        self.llm_engine = SimpleNamespace(vllm_config=self.vllm_config, abort_request=self.abort)
        self.processor = SettingProcessor(self.vllm_config, "cpu", False)
        self.waiting, self.rows = [], {}
        self.events = dict.fromkeys(("out", "parts", "moved", "thrown away"), 0)

    def get_tokenizer(self):
        return self.language_model.tokenizer

    def enqueue(self, prompts, parameters, use_tqdm):
        pairs = zip(prompts, parameters, strict=True)
        added = [
            Sequence(f"r{i}", prompt["prompt_token_ids"], of)
            for i, (prompt, of) in enumerate(pairs)
        ]
        for one in added:
            self.processor.validate_params(one.parameters)
        self.waiting += added
        return [one.id for one in added]

    def abort(self, ids, internal):
        assert internal and {one.id for one in [*self.waiting, *self.rows.values()]} >= {*ids}
        self.waiting = []
        removed, self.rows = [*self.rows], {}
        self.update(removed, [], [])

    def collective_rpc(self, method, args):
        return [getattr(Worker(self.processor), method)(*args)]

    def wait_for_completion(self, use_tqdm):
        asked = [*self.waiting]
        while self.waiting or self.rows:
            self.step()
        return [
            SimpleNamespace(
                outputs=[
                    SimpleNamespace(
                        token_ids=one.real, finish_reason=one.reason[0], stop_reason=one.reason[1]
                    )
                ]
            )
            for one in asked
        ]

    def update(self, removed, added, moved):
        some = SimpleNamespace(removed=sorted(removed)[::-1], added=added, moved=moved)
        self.processor.update_state(some if removed or added or moved else None)

    def step(self):
        removed = [row for row, one in self.rows.items() if one.reason is not None]
        for row in removed:
            del self.rows[row]
        for row in [*self.rows]:
            if self.rng.random() < 0.1:
                one = self.rows.pop(row)
                one.read = 0
                # The engine recovers what it knows by now.
                one.output = [*one.real]
                self.waiting.insert(0, one)
                removed.append(row)
                self.events["out"] += bool(one.real)
        self.update(*self.arranged(removed))
        if not self.rows:
            return
        logits = torch.stack([self.logits(self.rows[row]) for row in range(len(self.rows))])
        left = self.processor.apply(logits.clone())
        for row, tokens in enumerate(left.argmax(-1).tolist()):
            self.commit(self.rows[row], tokens)

    def arranged(self, removed):
        """Removed, added and moved rows, the batch being without gaps at the end."""
        free, added, moved = sorted(removed), [], []
        while self.waiting and (len(self.rows) < self.most):
            row = free.pop(0) if free else max(self.rows, default=-1) + 1
            one = self.rows[row] = self.waiting.pop(0)
            added.append((row, one.parameters, one.prompt, one.output))
        for gap in free:
            last = max(self.rows, default=-1)
            if gap < last:
                self.rows[gap] = self.rows.pop(last)
                moved.append((last, gap, Direction.UNIDIRECTIONAL))
        if len(self.rows) > 1 and self.rng.random() < 0.3:
            a, b = self.rng.choice(len(self.rows), 2, replace=False).tolist()
            self.rows[a], self.rows[b] = self.rows[b], self.rows[a]
            moved.append((a, b, Direction.SWAP))
        self.events["moved"] += len(moved)
        # Those whose place was taken are not free any more.
        return [row for row in removed if row in free], added, moved

    def logits(self, one):
        whole = one.prompt + one.real
        one.read = min(len(whole), one.read + int(self.rng.integers(1, 6)))
        if one.read < len(whole):
            self.events["parts"] += 1
        with torch.no_grad():
            return self.language_model.model(torch.tensor([whole[: one.read]])).logits[0, -1]

    def commit(self, one, token):
        if self.asynchronous and one.output and one.output[-1] == -1:
            one.output[-1] = one.real[-1]
        if one.read < len(one.prompt + one.real) or self.rng.random() < 0.1:
            self.events["thrown away"] += 1
            return
        one.real.append(token)
        one.output.append(-1 if self.asynchronous else token)
        one.finish(self.language_model.tokenizer.decode(one.real))
