"""The training losses: against autograd in float64 on the formulas, and against Hugging Face."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2LMHeadModel

from decoding.information import regularization
from decoding.information.regularization import entropy_regularized_loss, regularized_cross_entropy

VOCAB = 40
TERMS = [
    {},
    {"beta": 0.3},
    {"beta": 0.3, "target_entropy_nats": 1.5},
    {"label_smoothing": 0.1},
    {"beta": 0.2, "label_smoothing": 0.1},
    {"beta": 2.0, "target_entropy_nats": 0.0, "label_smoothing": 0.4},
]
terms = pytest.mark.parametrize("term", TERMS, ids=str)


def oracle(logits, targets, *, beta=0.0, target_entropy_nats=None, label_smoothing=0.0):
    """The definitions, row by row, in float64 and differentiable; ignored rows are absent."""
    total = []
    for z, y in zip(logits.double(), targets, strict=True):
        if y == -100:
            continue
        p = torch.exp(z - z.max()) / torch.exp(z - z.max()).sum()
        vocab = len(z)
        toward = torch.full_like(z, label_smoothing / vocab)
        toward[y] += 1 - label_smoothing
        entropy = -sum(p[i] * torch.log(p[i]) for i in range(vocab) if p[i] > 0)
        loss = -(toward * torch.log(p)).sum()
        if target_entropy_nats is None:
            loss = loss - beta * entropy
        else:
            loss = loss + beta * (entropy - target_entropy_nats) ** 2
        total.append(loss)
    return torch.stack(total)


def example(rows=7, dtype=torch.float64, scale=3.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(rows, VOCAB, generator=generator)).to(dtype).requires_grad_()
    targets = torch.randint(VOCAB, (rows,), generator=generator)
    targets[1::3] = -100
    return logits, targets


# --- values and gradients


@pytest.mark.parametrize("rows_a_block", [1, 3, 1000])
@terms
def test_equals_autograd_of_the_definition(term, rows_a_block, monkeypatch):
    monkeypatch.setattr(regularization, "BLOCK_BYTES", 4 * VOCAB * rows_a_block)
    logits, targets = example()
    kept = targets != -100
    losses = regularized_cross_entropy(logits, targets, **term)
    weights = torch.linspace(-1, 2, len(losses), dtype=torch.float64)  # rows need not count alike
    (gradient,) = torch.autograd.grad((losses * weights).sum(), logits)
    expected = oracle(logits, targets, **term)
    (slope,) = torch.autograd.grad((expected * weights[kept]).sum(), logits)
    torch.testing.assert_close(losses[kept], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-12)
    assert losses[~kept].tolist() == [0, 0] and not gradient[~kept].any()


@terms
def test_gradient_agrees_with_finite_differences(term):
    logits, targets = example(rows=3)
    assert torch.autograd.gradcheck(lambda z: regularized_cross_entropy(z, targets, **term), logits)


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [(torch.float32, 1e-6), (torch.bfloat16, 2**-8), (torch.float16, 2**-10)],
)
@terms
def test_half_precision_costs_only_the_rounding_of_the_gradient(term, dtype, precision):
    logits, targets = example(dtype=dtype)
    kept = targets != -100
    losses = regularized_cross_entropy(logits, targets, **term)
    exact = logits.detach().double().requires_grad_()
    expected = oracle(exact, targets, **term)
    (slope,) = torch.autograd.grad(expected.sum(), exact)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert losses.dtype == torch.float32 and gradient.dtype == dtype
    torch.testing.assert_close(losses[kept].double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.double(), slope, rtol=precision, atol=2e-6)


@pytest.mark.parametrize("shape", [(2, 3), (1,), (), (0,), (2, 0)])
def test_any_leading_axes_and_no_change_in_place(shape):
    logits = torch.randn(*shape, VOCAB, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    targets = torch.zeros(shape, dtype=torch.int32)
    losses = regularized_cross_entropy(logits.requires_grad_(), targets, beta=0.1)
    losses.sum().backward()
    assert losses.shape == shape and logits.grad.shape == logits.shape
    assert torch.equal(logits, before)


def test_rows_need_not_be_contiguous():
    logits = torch.randn(VOCAB, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.tensor([3, 0, -100, 39, 3])
    regularized_cross_entropy(logits.T, targets, beta=0.1).sum().backward()
    gradient, logits.grad = logits.grad, None
    oracle(logits.T, targets, beta=0.1).sum().backward()
    torch.testing.assert_close(gradient, logits.grad)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing_is_torchs(smoothing):
    logits, targets = example()
    ours = regularized_cross_entropy(logits, targets, label_smoothing=smoothing)
    theirs = F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(ours, theirs)


def test_the_two_twins_are_one_divergence_with_its_arguments_exchanged():
    logits, targets = example()
    kept, log_p = targets != -100, logits.log_softmax(-1)
    uniform = torch.full_like(log_p, -math.log(VOCAB))
    plain, penalised, smoothed = (
        regularized_cross_entropy(logits, targets, **term)[kept]
        for term in ({}, {"beta": 0.3}, {"label_smoothing": 0.3})
    )
    from_uniform = F.kl_div(uniform, log_p, log_target=True, reduction="none").sum(-1)[kept]
    to_uniform = F.kl_div(log_p, uniform, log_target=True, reduction="none").sum(-1)[kept]
    constant = 0.3 * math.log(VOCAB)
    torch.testing.assert_close(penalised, plain + 0.3 * from_uniform - constant)
    torch.testing.assert_close(smoothed, 0.7 * plain + 0.3 * to_uniform + constant)


# --- extreme logits


@terms
def test_extreme_logits_stay_finite(term):
    logits = torch.tensor([[1e4, 0.0, -1e4, 5.0], [-1e4, -1e4, -1e4, -1e4], [88.0, -88.0, 0, 0]])
    logits.requires_grad_()
    term = {**term, "target_entropy_nats": 1.0} if "target_entropy_nats" in term else term
    losses = regularized_cross_entropy(logits, torch.tensor([2, 1, 1]), **term)
    losses.sum().backward()
    expected = -logits.detach().double().log_softmax(-1)[[0, 1, 2], [2, 1, 1]]
    assert losses.isfinite().all() and logits.grad.isfinite().all()
    if not term:
        torch.testing.assert_close(losses.double(), expected)


def test_excluded_tokens_contribute_nothing_to_the_entropy():
    logits = torch.tensor([[0.5, -math.inf, 1.5, -math.inf]], dtype=torch.float64)
    kept = logits[:, [0, 2]].requires_grad_()
    losses = regularized_cross_entropy(logits.requires_grad_(), torch.tensor([2]), beta=0.7)
    losses.sum().backward()
    smaller = oracle(kept, torch.tensor([1]), beta=0.7)
    smaller.sum().backward()
    torch.testing.assert_close(losses, smaller)
    torch.testing.assert_close(logits.grad[:, [0, 2]], kept.grad)
    assert logits.grad[0, [1, 3]].tolist() == [0, 0]


def test_a_nan_is_not_hidden():
    logits = torch.zeros(2, 4)
    logits[0, 1] = math.nan
    losses = regularized_cross_entropy(logits, torch.tensor([0, 0]), beta=0.1)
    assert losses.isnan().tolist() == [True, False]
    ignored = regularized_cross_entropy(logits, torch.tensor([-100, 0]), beta=0.1)
    assert ignored.isfinite().all()


# --- memory


def test_nothing_of_the_logits_size_is_kept_or_made_but_their_gradient(monkeypatch):
    """Watches every tensor that either pass makes, and what the first keeps for the second."""
    block = 2 * VOCAB
    monkeypatch.setattr(regularization, "BLOCK_BYTES", 4 * block)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 16, VOCAB, generator=generator).bfloat16().requires_grad_()
    labels = torch.randint(VOCAB, (4, 16), generator=generator)
    large, saved = [], []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and made.numel() > block:
                large.append(made)
            return made

    def pack(tensor):
        saved.append(tensor)
        return tensor

    def storages(tensors):
        return {tensor.untyped_storage().data_ptr() for tensor in tensors}

    loss = entropy_regularized_loss(beta=0.1, label_smoothing=0.1)
    with Watch(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        (gradient,) = torch.autograd.grad(loss({"logits": logits}, labels), logits)
    assert storages(t for t in saved if t.numel() > block) == storages([logits])
    assert storages(large) == storages([logits, gradient])
    assert {tensor.dtype for tensor in large} == {torch.bfloat16}


# --- beside Hugging Face


@pytest.fixture(scope="module")
def batch():
    ids = torch.randint(1, 17, (4, 12), generator=torch.Generator().manual_seed(3))
    labels = ids.clone()
    labels[0, :5] = labels[1, 7:] = labels[3] = -100
    return ids, labels


@pytest.mark.parametrize("items", [None, 19, torch.tensor(19)], ids=str)
def test_without_a_term_it_is_the_models_own_loss(toy_gpt2, toy_llama, batch, items):
    ids, labels = batch
    for model in (toy_gpt2, toy_llama):
        known = {} if items is None else {"num_items_in_batch": items}
        theirs = model(input_ids=ids, labels=labels, **known).loss
        slopes = torch.autograd.grad(theirs, list(model.parameters()))
        ours = entropy_regularized_loss()(model(input_ids=ids), labels, num_items_in_batch=items)
        assert ours.shape == ()
        torch.testing.assert_close(ours, theirs)
        own = torch.autograd.grad(ours, list(model.parameters()))
        torch.testing.assert_close(own, slopes, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", [dict, lambda outputs: outputs.to_tuple(), lambda same: same])
def test_takes_what_models_return(toy_gpt2, batch, form):
    ids, labels = batch
    outputs = toy_gpt2(input_ids=ids)
    loss = entropy_regularized_loss(beta=0.2, label_smoothing=0.1)(form(outputs), labels)
    rows, shifted = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    expected = oracle(rows, shifted, beta=0.2, label_smoothing=0.1).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("items", [None, 0, torch.tensor(0)], ids=str)
def test_nothing_to_learn_from_is_no_loss(toy_gpt2, batch, items):
    ids, labels = batch
    logits = toy_gpt2(input_ids=ids).logits.detach().requires_grad_()
    none = torch.full_like(labels, -100)
    loss = entropy_regularized_loss(beta=0.1)({"logits": logits}, none, num_items_in_batch=items)
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


def test_micro_batches_add_up_to_the_whole(toy_gpt2, batch):
    """With the count, micro-batches of unequal numbers of labels; without it they would not."""
    ids, labels = batch
    loss = entropy_regularized_loss(beta=0.2, label_smoothing=0.1)
    items = (labels[:, 1:] != -100).sum()
    whole = loss(toy_gpt2(input_ids=ids), labels, num_items_in_batch=items)
    parts = [
        loss(toy_gpt2(input_ids=ids[rows]), labels[rows], num_items_in_batch=items)
        for rows in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(parts), whole)
    torch.testing.assert_close(loss(toy_gpt2(input_ids=ids), labels), whole)


def test_data_parallel_repeats_the_count_for_each_device(toy_gpt2, batch):
    """There the trainer passes `(devices, 1)` counts and multiplies the loss by `devices`."""
    ids, labels = batch
    loss, outputs = entropy_regularized_loss(beta=0.2), toy_gpt2(input_ids=ids)
    items = (labels[:, 1:] != -100).sum()
    repeated = loss(outputs, labels, num_items_in_batch=items.unsqueeze(0).expand(3, -1))
    torch.testing.assert_close(3 * repeated, loss(outputs, labels))


TRAINED = pytest.mark.parametrize(
    "term", [{}, {"beta": 0.3}, {"beta": 0.2, "target_entropy_nats": 2.0, "label_smoothing": 0.1}],
    ids=str,
)  # fmt: skip


@TRAINED
def test_the_trainer_accumulates_exactly(toy_gpt2, tmp_path, term):
    """Weights after real steps: four micro-batches of one row, or one batch of four, or by hand."""
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    ids = torch.randint(1, 17, (8, 12), generator=torch.Generator().manual_seed(4))
    labels = ids.clone()
    for row in range(8):
        labels[row, : row + 2] = -100  # the first is no target, whichever way it is counted
    config = copy.deepcopy(toy_gpt2.config)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    start = GPT2LMHeadModel(config)
    start.load_state_dict(toy_gpt2.state_dict())
    examples = [{"input_ids": i, "labels": y} for i, y in zip(ids, labels, strict=True)]

    class InOrder(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(examples)

    def trained(size):
        model = copy.deepcopy(start)
        arguments = TrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, max_steps=2, learning_rate=0.1, optim="sgd",
            lr_scheduler_type="constant", max_grad_norm=0.0, per_device_train_batch_size=size,
            gradient_accumulation_steps=4 // size, save_strategy="no", report_to="none",
            disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = Trainer(
            model=model, args=arguments, train_dataset=InOrder(), eval_dataset=examples,
            compute_loss_func=entropy_regularized_loss(**term),
        )  # fmt: skip
        trainer.train()
        return model, trainer

    (alone, _), (together, trainer) = trained(1), trained(4)
    by_hand = start
    for rows in (slice(0, 4), slice(4, 8)):
        logits = by_hand(input_ids=ids[rows]).logits[:, :-1].flatten(0, 1)
        loss = oracle(logits, labels[rows, 1:].flatten(), **term).mean()
        slopes = torch.autograd.grad(loss, list(by_hand.parameters()))
        with torch.no_grad():
            for parameter, slope in zip(by_hand.parameters(), slopes, strict=True):
                parameter -= 0.1 * slope
    for other in (alone, together):
        torch.testing.assert_close(
            list(other.parameters()), list(by_hand.parameters()), rtol=1e-4, atol=1e-5
        )
    evaluated = trainer.evaluate()["eval_loss"]
    logits = together.eval()(input_ids=ids).logits[:, :-1].flatten(0, 1)
    expected = oracle(logits, labels[:, 1:].flatten(), **term).mean().item()
    assert evaluated == pytest.approx(expected, abs=1e-4)


# --- arguments


@pytest.mark.parametrize("build", [
    entropy_regularized_loss,
    lambda **term: regularized_cross_entropy(torch.zeros(1, 4), torch.tensor([0]), **term),
], ids=["factory", "function"])  # fmt: skip
@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"beta": -0.1}, "beta must be finite and >= 0, got -0.1"),
        ({"beta": math.nan}, "beta must be finite"),
        ({"beta": math.inf}, "beta must be finite"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing must be in"),
        ({"label_smoothing": math.nan}, "label_smoothing must be in"),
        ({"beta": 1, "target_entropy_nats": -1}, "target_entropy_nats must be finite and >= 0"),
        ({"beta": 1, "target_entropy_nats": math.nan}, "target_entropy_nats must be finite"),
        ({"target_entropy_nats": 2.0}, "beta must be > 0 where target_entropy_nats is given"),
    ],
)
def test_refuses_arguments_outside_their_range(build, term, message):
    with pytest.raises(ValueError, match=message):
        build(**term)


def test_refuses_what_it_cannot_score(toy_gpt2, batch):
    ids, _ = batch
    logits = torch.zeros(2, 3, VOCAB)
    with pytest.raises(ValueError, match=r"targets must have .* \(2, 3\), got \(6,\)"):
        regularized_cross_entropy(logits, torch.zeros(6, dtype=torch.long))
    with pytest.raises(ValueError, match="target_entropy_nats must be at most ln 40"):
        regularized_cross_entropy(logits, torch.zeros(2, 3), beta=1, target_entropy_nats=4)
    with pytest.raises(ValueError, match="labels must be in the batch, got None"):
        entropy_regularized_loss()(toy_gpt2(input_ids=ids), None)
    with pytest.raises(RuntimeError):
        regularized_cross_entropy(logits, torch.full((2, 3), VOCAB))
    with pytest.raises(RuntimeError):
        regularized_cross_entropy(logits, torch.full((2, 3), -1))
