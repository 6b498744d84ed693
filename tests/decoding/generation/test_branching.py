"""Trees of alternatives, against the model's own distributions along every path."""

import copy
import functools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from decoding import DecodingSettings
from decoding.generation.branching import branch
from oracle import log_softmax, plogp, reference_log_q, scripted, spared

BOUND = 2.0


def grown(language_model, spec="temperature=0.8,top_p=0.9", **options):
    settings = DecodingSettings.parse(spec)
    options = {"entropy_above": BOUND, "max_new_tokens": 16, "seed": 3} | options
    return branch(language_model, "Once upon a time", settings, **options)


def logits_after(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, -1].double().numpy()


def nodes(node, path=()):
    """Every node with the ids before it."""
    yield node, list(path)
    for child in node.children:
        yield from nodes(child, (*path, *node.ids))


def test_forks_stand_where_entropy_crosses_the_bound_and_nowhere_else(stories):
    tree = grown(stories, max_leaves=1000, branches=2, max_new_tokens=8)
    settings = tree.settings
    forks = 0
    for node, path in nodes(tree.root):
        ids = [*tree.prompt_ids, *path]
        # A child's first token was given at the fork; from the next one on entropy is looked at.
        given = 0 if node is tree.root else 1
        for place, token in enumerate(node.ids):
            z = logits_after(stories.model, [*ids, *node.ids[:place]])
            log_p, log_q = log_softmax(z), reference_log_q(z, settings)
            if place >= given:
                assert plogp(log_p, -log_p) <= BOUND + 1e-4
            assert np.isfinite(log_q[token])
            assert node.entropy_nats[place] == pytest.approx(plogp(log_q, -log_q), abs=1e-4)
        if not node.children:
            assert node.finish_reason in ("eos", "length") and node.hesitation_nats is None
            continue
        forks += 1
        z = logits_after(stories.model, [*ids, *node.ids])
        log_p, q = log_softmax(z), np.exp(reference_log_q(z, settings))
        assert node.hesitation_nats == pytest.approx(plogp(log_p, -log_p), abs=1e-4)
        assert node.hesitation_nats > BOUND - 1e-4
        best = np.argsort(-q, kind="stable")[:2]
        assert [child.ids[0] for child in node.children] == best.tolist()
        assert [child.probability for child in node.children] == pytest.approx(q[best], abs=1e-5)
    assert forks >= 3


def test_texts_join_and_probabilities_multiply(stories):
    tree = grown(stories)
    leaves = list(tree.root.leaves())
    assert 1 < len(leaves) <= 9
    assert len({text for text, _ in leaves}) == len(leaves)
    assert 0 < sum(probability for _, probability in leaves) <= 1 + 1e-9
    whole = [[*path, *node.ids] for node, path in nodes(tree.root) if not node.children]
    decoded = [stories.tokenizer.decode(ids) for ids in whole]
    assert sorted(decoded) == sorted(text for text, _ in leaves)
    assert all(len(ids) <= 16 for ids in whole)
    record = json.loads(json.dumps(tree.record(), allow_nan=False))
    assert record["leaves"] == [{"text": t, "probability": p} for t, p in leaves]


def test_the_same_seed_grows_the_same_tree_and_another_one_another(stories):
    assert grown(stories).record() == grown(stories).record()
    assert grown(stories).record() != grown(stories, seed=4).record()
    assert grown(stories, seed=None).seed != grown(stories, seed=None).seed


@pytest.mark.parametrize(("branches", "most"), [(2, 2), (3, 3), (3, 4), (4, 1), (50, 9)])
def test_leaves_are_limited(stories, branches, most):
    tree = grown(stories, branches=branches, max_leaves=most)
    assert len(list(tree.root.leaves())) == most
    sizes = [len(node.children) for node, _ in nodes(tree.root) if node.children]
    # All forks but the last have as many as asked for.
    assert sorted(sizes)[1:] == [branches] * len(sizes[1:])


def test_a_setting_that_keeps_one_token_has_one_alternative(stories):
    tree = grown(stories, "greedy", max_leaves=50)
    assert len(list(tree.root.leaves())) == 1
    [(text, probability)] = tree.root.leaves()
    assert probability == 1
    z = logits_after(stories.model, list(tree.prompt_ids))
    assert text.startswith(stories.tokenizer.decode([int(z.argmax())]))


def test_a_sure_model_never_forks(stories):
    model = scripted(stories.model, [5, 6, 7])
    tree = branch(
        replace(stories, model=model), "Once", entropy_above=0.5, max_new_tokens=3, seed=0
    )
    assert tree.root.ids == [5, 6, 7] and not tree.root.children
    assert tree.root.finish_reason == "length"


def test_a_stop_string_ends_a_text_also_across_a_fork(stories):
    options = {"max_new_tokens": 12, "max_leaves": 8}
    # The first two tokens behind a fork, of which the first one was given and the second drawn.
    forks = [node for node, _ in nodes(grown(stories, **options).root) if node.children]
    across = {"".join(fork.children[0].texts[:2]) for fork in forks}
    assert len(across) >= 3
    for stop in [" a", *sorted(across)[:3]]:
        ended = []
        for node, path in nodes(grown(stories, stop=[stop], **options).root):
            text = stories.tokenizer.decode([*path, *node.ids])
            assert (stop in text) == (node.finish_reason == "stop")
            ended.append(stop in text)
        assert any(ended)


def test_a_fork_within_a_character_belongs_to_both_of_its_branches(stories260k):
    model, tokenizer = stories260k.model, stories260k.tokenizer
    prompt, script = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Once", "a 🎈 and é.")
    )
    fork = len(tokenizer("a 🎈", add_special_tokens=False)["input_ids"]) - 1
    first = 1 + len(prompt)  # BOS
    twin = copy.copy(model)

    @functools.wraps(model.forward)
    def forward(*args, **kwargs):
        output = model.forward(*args, **kwargs)
        places = kwargs.get("position_ids")
        read = kwargs["input_ids"].shape[1] if places is None else int(places[0, -1]) + 1
        logits = torch.full_like(output.logits, -50.0)
        logits[:, -1, script[read - first]] = 0.0
        if read - first == fork:
            logits[:, -1, script[fork] + 1] = -0.1
        output.logits = logits
        return output

    twin.forward = forward
    spared(twin)
    tree = branch(
        replace(stories260k, model=twin),
        "Once",
        entropy_above=0.5,
        max_new_tokens=len(script),
        branches=2,
        seed=1,
    )
    assert {text for text, _ in tree.root.leaves()} == {" a 🎈 and é.", " a 🎉 and é."}


def test_what_one_token_leaves_no_choice_of_is_no_fork(stories):
    """So a tree is no deeper than it has ends, and its record can be written."""
    tree = grown(stories, "top_k=1", entropy_above=0.0, max_new_tokens=12)
    assert not tree.root.children and len(tree.root.ids) == 12
    greedy = grown(stories, "greedy", entropy_above=100.0, max_new_tokens=12)
    assert tree.root.ids == greedy.root.ids and tree.root.texts == greedy.root.texts
    assert tree.root.entropy_nats == [0.0] * 12 and tree.root.finish_reason == "length"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"branches": 1}, "branches must be a whole number >= 2, got 1"),
        ({"branches": 2.5}, "branches must be a whole number >= 2, got 2.5"),
        ({"max_leaves": 0}, "max_leaves must be a whole number >= 1, got 0"),
        ({"max_leaves": float("nan")}, "max_leaves must be a whole number >= 1, got nan"),
        ({"max_new_tokens": -3}, "max_new_tokens must be a whole number >= 1, got -3"),
        ({"entropy_above": -1.0}, "entropy_above"),
        ({"entropy_above": float("nan")}, "entropy_above"),
        ({"seed": -1}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"spec": "mirostat_tau=2"}, "mirostat_tau"),
    ],
)
def test_bad_arguments_are_refused_by_name(stories, options, says):
    with pytest.raises(ValueError, match=says):
        grown(stories, **options)


def test_the_tree_at_the_shell(run, stories):
    arguments = [
        "generate", "Once upon a time", "--temperature", "0.8", "--seed", "1",
        "--max-new-tokens", "12", "--branch-at-entropy", "2.5", "--branches", "3",
    ]  # fmt: skip
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    first, *others = out.splitlines()
    assert first.startswith("Once upon a time") and "nats⟩" in first
    assert sum("├── 0." in line or "└── 0." in line for line in others) == len(others)
    code, out, _ = run(*arguments, "--json")
    record = json.loads(out)
    assert code == 0 and record["seed"] == 1 and record["settings"] == "temperature=0.8"
    assert len(record["leaves"]) == sum("nats⟩" not in line for line in [first, *others])


@pytest.mark.parametrize(
    "arguments",
    [("--num-samples", "2"), ("--num-beams", "2"), ("--alternatives", "1"),
     ("--setting", "mirostat_tau=2"), ("--setting", "raw while entropy<=2 else stop"),
     ("--branches", "1"), ("--max-leaves", "0"), ("--branch-at-entropy", "-1"),
     ("--branch-at-entropy", "nan"), ("--branch-at-entropy", "inf")],
)  # fmt: skip
def test_what_a_tree_has_no_place_for_is_refused_before_a_model_is_loaded(run, arguments):
    code, out, err = run(
        "generate", "x", "--model", "./none", "--branch-at-entropy", "2", *arguments
    )
    assert code == 2 and out == "" and "none" not in err.splitlines()[-1]


@pytest.mark.parametrize("option", ["--branches", "--max-leaves"])
def test_options_of_a_tree_need_one(run, option):
    code, out, err = run("generate", "x", "--model", "./none", option, "3")
    assert (code, out, err) == (2, "", f"Error: {option} needs --branch-at-entropy\n")
