"""What the page of a tree is made of."""

import json

import pytest

from decoding.generation.branching import branch
from decoding.generation.view import TREE


@pytest.fixture(scope="module")
def record(stories):
    tree = branch(
        stories, "Once upon a time", entropy_above=1.5, max_leaves=7, max_new_tokens=12, seed=1
    )
    return json.loads(json.dumps(tree.record()))


def test_ends_stand_by_probability_each_with_its_way_and_tokens(record):
    entry = TREE.shown(record)
    want = sorted(record["leaves"], key=lambda leaf: -leaf["probability"])
    ends = entry["data"]["ends"]
    for end, text, leaf in zip(ends, entry["texts"], want, strict=True):
        assert end["probability"] == pytest.approx(leaf["probability"])
        assert "".join(text["tokens"]) == leaf["text"]
        assert len(text["recorded"]["entropy_nats"]) == len(text["tokens"])
        node, walked, probability = record["tree"], record["tree"]["text"], 1.0
        for at in end["path"]:
            node = node["children"][at]
            walked, probability = walked + node["text"], probability * node["probability"]
        assert walked == leaf["text"] and probability == pytest.approx(leaf["probability"])


def test_a_tree_without_forks_has_one_end(stories):
    tree = branch(stories, "Once upon", entropy_above=100, max_new_tokens=3, seed=1)
    entry = TREE.shown(tree.record())
    assert entry["data"]["ends"] == [{"path": [], "probability": 1.0}]
    assert len(entry["texts"]) == 1
