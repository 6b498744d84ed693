"""Entropy and its kin, settings compared, ensembles, training losses."""

from decoding.exports import exported

__getattr__, __dir__ = exported(
    __name__,
    {
        "Mixture": "ensembles",
        "RowStatistics": "statistics",
        "compare_rows": "comparison",
        "cross_entropy": "measures",
        "entropy": "measures",
        "entropy_regularized_loss": "regularization",
        "js_divergence": "measures",
        "kl_divergence": "measures",
        "mutual_information": "measures",
        "regularized_cross_entropy": "regularization",
        "row_statistics": "statistics",
        "surprisal": "measures",
        "total_variation": "measures",
        "varentropy": "measures",
    },
)
