"""How alike answers are: by ROUGE-L, and by untrained models read by transformers itself."""

import numpy as np
import pytest
import torch
from pair_models import NLI, classifier
from transformers import BertForSequenceClassification, BertTokenizerFast

from decoding import ModelLoadError
from decoding_evals.judging.answers import rouge_l
from decoding_evals.judging.entailment import EntailmentModel
from decoding_evals.judging.similarity import SimilarityModel, likeness, rouge_similarity

SAMPLES, GREEDY = ["a b", "c", "a b", "d e f", "a"], "c"


@pytest.fixture(scope="module")
def scoring(tmp_path_factory):
    return classifier(tmp_path_factory.mktemp("scores"), ["score"])


@pytest.fixture(scope="module")
def entailing(tmp_path_factory):
    return classifier(tmp_path_factory.mktemp("nli"), NLI)


def by_transformers(folder, pairs):
    """Logits of each pair, one at a time."""
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    with torch.no_grad():
        return [model(**tokenizer(*pair, return_tensors="pt")).logits[0].double() for pair in pairs]


def test_rouge_of_all_pairs_and_one_of_a_text_with_itself():
    texts = ["the dog barked", "a dog barked loudly", "苹果", ""]
    found = rouge_similarity(texts)
    for i, one in enumerate(texts):
        for j, other in enumerate(texts):
            assert found[i, j] == (1 if i == j else rouge_l(one, other))
    assert 0 < found[0, 1] < 1 and found[2, 3] == 0


def test_a_cross_encoder_scores_each_ordered_pair(scoring):
    texts = ["a b", "c", "d e f"]
    pairs = [(one, other) for one in texts for other in texts]
    want = [1 / (1 + np.exp(-float(logits))) for logits in by_transformers(scoring, pairs)]
    model = SimilarityModel(str(scoring))
    np.testing.assert_allclose(model(texts).ravel(), want, atol=1e-6)
    np.testing.assert_allclose(model.of_pairs(pairs[:4]), want[:4], atol=1e-6)
    assert model.of_pairs([]).shape == (0,)
    assert np.ptp(want) > 0.1


def test_what_gives_no_single_score_is_refused(entailing, tmp_path):
    with pytest.raises(ModelLoadError, match="must give one score, and has 3 labels: 'CONTRA"):
        SimilarityModel(str(entailing))
    with pytest.raises(ModelLoadError, match="similarity model") as error:
        SimilarityModel(str(tmp_path))
    assert "\n" not in str(error.value)


def test_texts_too_long_for_a_cross_encoder_are_refused(scoring):
    with pytest.raises(ValueError, match=r"43 tokens, and similarity model .*: ask for shorter"):
        SimilarityModel(str(scoring)).of_pairs([("a " * 20, "b " * 20)])


def test_likeness_by_text():
    found = likeness(SAMPLES, GREEDY)
    assert (found.by, found.clustering) == ("ROUGE-L", "normalised text")
    for i, one in enumerate(SAMPLES):
        assert found.greedy[i] == rouge_l(one, GREEDY)
        assert found.samples[i].tolist() == [rouge_l(one, other) for other in SAMPLES]
    assert found.labels == [0, 1, 0, 2, 3]  # "a" alone is no article that would be left out
    assert found.scores is None and likeness(SAMPLES, None).greedy is None


def test_likeness_by_models(scoring, entailing):
    """Each different text is asked about once; the order of a pair counts in `scores` alone."""
    nli, cross = EntailmentModel(str(entailing)), SimilarityModel(str(scoring))
    both = likeness(SAMPLES, GREEDY, entailment=nli, similarity=cross)
    one = likeness(SAMPLES, GREEDY, similarity=cross)
    assert both.by == both.clustering == f"entailment by {entailing}"
    assert (one.by, one.clustering) == (f"similarity by {scoring}", "normalised text")
    texts = [*SAMPLES, GREEDY]
    pairs = [(a, b) for a in texts for b in texts]
    likely = [float(logits.softmax(-1)[2]) for logits in by_transformers(entailing, pairs)]
    scores = [float(logits.sigmoid()) for logits in by_transformers(scoring, pairs)]
    for found, values in ((both, likely), (one, scores)):
        matrix = np.reshape(values, (6, 6))
        assert np.abs(matrix - matrix.T).max() > 0.01
        mean = (matrix + matrix.T) / 2
        np.testing.assert_allclose(found.samples, mean[:5, :5], atol=1e-6)
        np.testing.assert_allclose(found.greedy, mean[5, :5], atol=1e-6)
        np.testing.assert_allclose(found.scores, np.reshape(scores, (6, 6))[:5, :5], atol=1e-6)
