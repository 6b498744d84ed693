"""What the table and the picture of attention show."""

import numpy as np
from numpy.testing import assert_allclose

from decoding_evals.attention.evaluation import attention
from decoding_evals.attention.figure import plot_attention
from decoding_evals.attention.tables import layer_table
from pictures import drawn

TEXT = "Once upon a time, Lily didn't see the 日本 cat 🙂.\n She was  sad!"


def test_a_layer_shows_its_heads_mean_narrowest_and_broadest(stories):
    [got] = attention(stories, [TEXT])
    cells = [list(column.cells) for column in layer_table(got.record()).columns]
    for layer, row in enumerate(zip(*cells, strict=True)):
        heads = got.normalized_entropy[layer]
        want = (
            np.mean(got.entropy_nats[layer]), heads.mean(), heads.min(), heads.max(),
            np.mean(got.without_sink_normalized_entropy[layer]), np.mean(got.sink_weight[layer]),
        )  # fmt: skip
        assert row[0] == str(layer)
        assert_allclose([float(cell) for cell in row[1:-1]], want, atol=6e-4)


def test_every_text_of_the_picture_is_on_the_page(stories):
    [got] = attention(stories, [TEXT])
    figure = plot_attention({"name": "a.txt", **got.record()})
    for text, box in drawn(figure):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text
