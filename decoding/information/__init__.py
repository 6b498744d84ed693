"""Entropy and its kin, settings compared, ensembles, training losses."""

from decoding.exports import exported

__getattr__, __dir__ = exported(
    __name__,
    comparison="compare_rows",
    ensembles="Mixture",
    measures="cross_entropy cross_varentropy entropy js_divergence kl_divergence "
    "mutual_information renyi_entropy self_certainty surprisal total_variation varentropy",
    regularization="entropy_regularized_loss regularized_cross_entropy",
    statistics="RowStatistics row_statistics",
)
