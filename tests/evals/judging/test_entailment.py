"""Answers sorted by meaning, with a scripted judge and with a real, untrained model."""

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from decoding import ModelLoadError
from decoding_evals.judging.entailment import EntailmentModel, entailment_clusters


def judge(*pairs):
    """Entailment of exactly these pairs, and of each text by itself."""

    def entails(texts):
        assert len(set(texts)) == len(texts)
        return np.array([[a == b or (a, b) in pairs for b in texts] for a in texts])

    return entails


def test_both_must_entail_each_other():
    mutual = judge(("a", "b"), ("b", "a"), ("a", "c"))
    assert entailment_clusters(["a", "b", "c"], mutual) == [0, 0, 1]


def test_the_first_text_of_a_cluster_decides():
    """c means the same as b, but not as a, which founded the cluster."""
    chain = judge(("a", "b"), ("b", "a"), ("b", "c"), ("c", "b"))
    assert entailment_clusters(["a", "b", "c"], chain) == [0, 0, 1]
    assert entailment_clusters(["b", "a", "c"], chain) == [0, 0, 0]


def test_equal_texts_are_together_and_asked_about_once():
    assert entailment_clusters(["x", "y", "x", "y", "x"], judge()) == [0, 1, 0, 1, 0]


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained classifier of pairs, wide awake to its input."""
    path = tmp_path_factory.mktemp("nli")
    vocabulary = path / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS))
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32, initializer_range=1.0, num_labels=3,
        id2label={0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"},
        label2id={"CONTRADICTION": 0, "NEUTRAL": 1, "ENTAILMENT": 2},
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(path)
    BertTokenizerFast(vocab_file=str(vocabulary), model_max_length=32).save_pretrained(path)
    return path


def test_a_model_judges_each_ordered_pair(folder):
    texts = ["a b", "c", "d e f", "g h", "a", "b a"]
    found = EntailmentModel(str(folder))(texts)
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    want = np.zeros((6, 6), dtype=bool)
    for i, premise in enumerate(texts):
        for j, hypothesis in enumerate(texts):
            with torch.no_grad():
                logits = model(**tokenizer(premise, hypothesis, return_tensors="pt")).logits[0]
            want[i, j] = logits.argmax() == 2
    assert 0 < want.sum() < want.size and (want != want.T).any()
    np.testing.assert_array_equal(found, want)


def test_texts_that_are_too_long_are_refused_not_cut(folder):
    with pytest.raises(ValueError, match=r"43 tokens.*reads 32: ask for shorter"):
        EntailmentModel(str(folder))(["a " * 20, "b"])


def test_a_table_of_positions_that_the_tokenizer_does_not_know_is_a_limit(folder, tmp_path):
    """RoBERTa's begins behind its padding, and many a tokenizer states no limit."""
    config = RobertaConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32, pad_token_id=0, type_vocab_size=2,
        id2label={0: "entailment", 1: "other"}, label2id={"entailment": 0, "other": 1},
    )  # fmt: skip
    RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(tmp_path)
    assert EntailmentModel(str(tmp_path))(["a " * 13, "b"]).shape == (2, 2)
    with pytest.raises(ValueError, match=r"37 tokens.*reads fewer: ask for shorter"):
        EntailmentModel(str(tmp_path))(["a " * 17, "b"])


def test_a_model_without_the_label_is_refused(folder, tmp_path):
    model = BertForSequenceClassification.from_pretrained(folder)
    model.config.id2label = {0: "bad", 1: "good", 2: "fair"}
    model.config.label2id = {"bad": 0, "good": 1, "fair": 2}
    model.save_pretrained(tmp_path)
    BertTokenizerFast.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match="no label 'entailment'; it has 'bad', 'good'"):
        EntailmentModel(str(tmp_path))


def test_what_is_no_model_is_refused_in_one_line(tmp_path):
    with pytest.raises(ModelLoadError, match="entailment model") as error:
        EntailmentModel(str(tmp_path))
    assert "\n" not in str(error.value)
