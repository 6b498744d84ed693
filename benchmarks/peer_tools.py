"""Other tools, and plain loops after their rules; answers `peers.py` from the tools' environment.

It reads requests, one JSON object per line, and writes each answer with the CPU seconds it took.
What a tool should have said comes from loops in float64. llama.cpp and Megatron-LM are not run,
only their rules; the recipe of Hugging Face's guide, and `evaluate`'s metric, whose code is on a
hub, are written anew.
"""

import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from typing import Any

CONTEXT = 512
BATCH = 8
PEERS = ("lm-eval", "minicons", "surprisal", "evaluate", "torch", "transformers")

Ids = list[int]
Windows = Iterator[tuple[Ids, Ids]]
"""What the model reads, and the successors of the last of it."""


# The rules. A window's targets are the successors of its last inputs.


def rolling_windows(ids: Ids, bos: int, length: int) -> Windows:
    """lm-eval: every window reads `length` tokens, the last one reaches back for them."""
    sequence = [bos, *ids]
    done = 0
    while done < len(ids):
        end = min(done + length, len(ids))
        yield sequence[max(0, end - length) : end], ids[done:end]
        done = end


def guide_windows(ids: Ids, length: int, stride: int) -> Windows:
    """Hugging Face's guide: `length` tokens with their targets, no BOS."""
    done = 0
    for begin in range(0, len(ids), stride):
        end = min(begin + length, len(ids))
        yield ids[begin : end - 1], ids[max(done, begin + 1) : end]
        done = end
        if end == len(ids):
            return


def chunk_windows(tokens: Ids, bos: int | None, length: int) -> Windows:
    """llama.cpp: whole chunks, BOS in place of the first token, the later half scored."""
    for begin in range(0, len(tokens) - length + 1, length):
        chunk = tokens[begin : begin + length]
        targets = chunk[length // 2 + 1 :]
        if bos is not None:
            chunk[0] = bos
        yield chunk[:-1], targets


def overlapping_windows(ids: Ids, length: int, stride: int) -> Windows:
    """Megatron-LM's zero-shot evaluation: every token but the first, no BOS."""
    done = 1
    for begin in range(0, len(ids), stride):
        end = min(begin + length + 1, len(ids))
        yield ids[begin : end - 1], ids[done:end]
        done = end
        if end == len(ids):
            return


# The tools. Each is asked once before it is timed.


@cache
def tokenizer_of(folder: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@cache
def model_of(folder: str, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()


def encode(folder: str, text: str) -> Ids:
    tokenizer = tokenizer_of(folder)
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def adds_bos(folder: str) -> bool:
    """Whether the tokenizer puts BOS in front by itself, as Llama's does."""
    tokenizer = tokenizer_of(folder)
    return tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id


def exact(folder: str, windows: Windows) -> list[tuple[list[float], list[float]]]:
    """For every window the surprisals of its targets, and ln(1 - p(EOS)) in their places."""
    import torch

    model, eos = model_of(folder, "float64"), tokenizer_of(folder).eos_token_id
    result = []
    for inputs, targets in windows:
        if not targets:
            continue
        with torch.inference_mode():
            logits = model(torch.tensor([inputs])).logits[0, -len(targets) :]
            log_probs = logits.log_softmax(-1)
            surprisals = -log_probs.gather(1, torch.tensor(targets)[:, None])[:, 0]
            others = torch.log1p(-log_probs[:, eos].exp())
        result.append((surprisals.tolist(), others.tolist()))
    return result


def flat(parts: list[tuple[list[float], list[float]]]) -> list[float]:
    return [value for surprisals, _ in parts for value in surprisals]


def lm_eval_rule(folder: str, documents: list[str]) -> dict[str, Any]:
    bos = tokenizer_of(folder).bos_token_id
    log_likelihoods = []
    for document in documents:
        windows = rolling_windows(encode(folder, document), bos, CONTEXT)
        log_likelihoods.append(-math.fsum(flat(exact(folder, windows))))
    return rolling_figures(log_likelihoods, documents)


def guide_rule(folder: str, text: str, stride: int) -> dict[str, Any]:
    """The guide's predictions, all of the same weight."""
    scored = flat(exact(folder, guide_windows(encode(folder, text), CONTEXT, stride)))
    return {"perplexity": math.exp(statistics.fmean(scored))}


def llama_cpp_rule(folder: str, text: str) -> dict[str, Any]:
    bos = tokenizer_of(folder).bos_token_id if adds_bos(folder) else None
    # It reads a file without the line break at its end.
    tokens = encode(folder, text.removesuffix("\n"))
    if bos is not None:
        tokens = [bos, *tokens]
    scored = flat(exact(folder, chunk_windows(tokens, bos, CONTEXT)))
    return {
        "perplexity": math.exp(statistics.fmean(scored)),
        "standard_error": statistics.pstdev(scored) / math.sqrt(len(scored) - 1),
        "tokens_scored": len(scored),
        "tokens": len(tokens),
    }


def megatron_rule(folder: str, text: str, stride: int) -> dict[str, Any]:
    """Spaces of the tokenised text undone; per token, and per unit of the original text."""
    from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer

    ids = encode(folder, wikitext_detokenizer({"page": text}))
    scored = flat(exact(folder, overlapping_windows(ids, CONTEXT, stride)))
    units = len(text.strip().split(" ")) - 1
    return {
        "perplexity": math.exp(statistics.fmean(scored)),
        "word_perplexity": math.exp(math.fsum(scored) / units),
    }


def surprisals_by_rule(folder: str, documents: list[str]) -> list[dict[str, list[float]]]:
    """BOS and the whole document in one reading; `without_eos` is what leaving EOS out makes."""
    bos = tokenizer_of(folder).bos_token_id
    result = []
    for document in documents:
        ids = encode(folder, document)
        [(surprisals, others)] = exact(folder, iter([([bos, *ids[:-1]], ids)]))
        without = [a + b for a, b in zip(surprisals, others, strict=True)]
        result.append({"surprisals": surprisals, "without_eos": without})
    return result


def rolling_figures(log_likelihoods: list[float], documents: list[str]) -> dict[str, Any]:
    from lm_eval.api.metrics import bits_per_byte, weighted_perplexity
    from lm_eval.api.task import PerplexityTask

    words = [PerplexityTask.count_words(document) for document in documents]
    sizes = [PerplexityTask.count_bytes(document) for document in documents]
    return {
        "log_likelihood": math.fsum(log_likelihoods),
        "word_perplexity": weighted_perplexity(list(zip(log_likelihoods, words, strict=True))),
        "byte_perplexity": weighted_perplexity(list(zip(log_likelihoods, sizes, strict=True))),
        "bits_per_byte": bits_per_byte(list(zip(log_likelihoods, sizes, strict=True))),
    }


@cache
def lm_eval_model(folder: str, add_bos_token: bool | None) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(
        pretrained=folder,
        backend="causal",
        device="cpu",
        dtype="float32",
        batch_size=BATCH,
        max_length=CONTEXT,
        add_bos_token=add_bos_token,
    )


def lm_eval(
    folder: str, documents: list[str], add_bos_token: bool | None = False
) -> dict[str, Any]:
    from lm_eval.api.instance import Instance

    requests = [
        Instance("loglikelihood_rolling", {}, (document,), index)
        for index, document in enumerate(documents)
    ]
    model = lm_eval_model(folder, add_bos_token)
    return rolling_figures(model.loglikelihood_rolling(requests, disable_tqdm=True), documents)


@cache
def minicons_scorer(folder: str) -> Any:
    import torch
    from minicons.scorer import IncrementalLMScorer

    return IncrementalLMScorer(folder, "cpu", dtype=torch.float32)


def minicons(folder: str, documents: list[str], bos_token: bool) -> list[list[float]]:
    scorer = minicons_scorer(folder)
    result = []
    for begin in range(0, len(documents), BATCH):
        batch = documents[begin : begin + BATCH]
        scored = scorer.token_score(batch, surprisal=True, bos_token=bos_token)
        result += [[value for _, value in document] for document in scored]
    return result


@cache
def surprisal_model(folder: str) -> Any:
    from surprisal import AutoModel

    return AutoModel.from_pretrained(folder, model_class="causal")


def surprisal(folder: str, documents: list[str], use_bos_token: bool) -> list[list[float]]:
    """As it answers: arrays as long as the longest text of the batch."""
    model = surprisal_model(folder)
    result = []
    for begin in range(0, len(documents), BATCH):
        scored = model.surprise(documents[begin : begin + BATCH], use_bos_token=use_bos_token)
        result += [[float(value) for value in document.surprisals] for document in scored]
    return result


def evaluate_metric(folder: str, documents: list[str]) -> dict[str, Any]:
    """Rule of `evaluate`'s perplexity: cut to the context, the mean of the texts' perplexities."""
    import torch
    from torch.nn.functional import cross_entropy

    tokenizer, model = tokenizer_of(folder), model_of(folder, "float32")
    encoded = tokenizer(
        documents,
        add_special_tokens=False,
        padding=True,
        truncation=True,
        max_length=CONTEXT - 1,
        return_tensors="pt",
    )
    bos = torch.full((len(documents), 1), tokenizer.bos_token_id)
    ids = torch.cat([bos, encoded["input_ids"]], 1)
    mask = torch.cat([torch.ones_like(bos), encoded["attention_mask"]], 1)
    perplexities: list[float] = []
    for begin in range(0, len(documents), BATCH):
        batch = slice(begin, begin + BATCH)
        with torch.inference_mode():
            logits = model(ids[batch], attention_mask=mask[batch]).logits[:, :-1]
        losses = cross_entropy(logits.transpose(1, 2), ids[batch, 1:], reduction="none")
        kept = mask[batch, 1:]
        perplexities += ((losses * kept).sum(1) / kept.sum(1)).exp().tolist()
    scored = (mask.sum(1) - 1).tolist()
    nll = math.fsum(n * math.log(p) for n, p in zip(scored, perplexities, strict=True))
    return {
        "mean_perplexity": statistics.fmean(perplexities),
        "perplexity": math.exp(nll / sum(scored)),
        "tokens_scored": sum(scored),
    }


def guide(folder: str, documents: list[str], stride: int, tokens: int = 0) -> dict[str, Any]:
    """The guide's recipe, with the weights that it gives today and those of former years."""
    import torch

    model = model_of(folder, "float32")
    [text] = documents
    ids = encode(folder, text)[: tokens or None]
    present, former, weight = 0.0, 0.0, 0
    done = 0
    for begin in range(0, len(ids), stride):
        end = min(begin + CONTEXT, len(ids))
        read = torch.tensor([ids[begin:end]])
        labels = read.clone()
        labels[:, : max(0, done - begin)] = -100
        with torch.inference_mode():
            loss = model(read, labels=labels).loss.item()
        labelled = end - max(done, begin)
        present += loss * (labelled - 1)
        weight += labelled - 1
        former += loss * labelled
        done = end
        if end == len(ids):
            break
    return {
        "present": math.exp(present / weight),
        "former": math.exp(former / len(ids)),
        "tokens_scored": weight,
    }


def versions() -> dict[str, str]:
    return {name: version(name) for name in PEERS}


def counts(folder: str, documents: list[str]) -> dict[str, Any]:
    lengths = [len(encode(folder, document)) for document in documents]
    return {"tokens": lengths, "adds_bos": adds_bos(folder)}


ANSWERS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        counts,
        evaluate_metric,
        guide,
        guide_rule,
        llama_cpp_rule,
        lm_eval,
        lm_eval_rule,
        megatron_rule,
        minicons,
        surprisal,
        surprisals_by_rule,
        versions,
    )
}


def work() -> None:
    """Answer requests on stdin; what the tools print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        function = ANSWERS[request.pop("ask")]
        started = time.process_time()
        value = function(**request)
        seconds = time.process_time() - started
        answers.write(json.dumps({"value": value, "seconds": seconds}) + "\n")
        answers.flush()


if __name__ == "__main__":
    work()
