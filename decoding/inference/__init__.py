"""What data say: temperatures, posteriors, intervals, entropy of sequences."""

from decoding.exports import exported

__getattr__, __dir__ = exported(
    __name__,
    {
        "LogNormalPrior": "temperature",
        "estimate_temperature": "temperature",
        "fit_temperature": "temperature",
        "log_posterior": "posterior",
        "running_log_posterior": "posterior",
        "top_p_for_coverage": "temperature",
    },
)
