"""What data say: temperatures, posteriors, intervals, entropy of sequences."""

from decoding.exports import exported

__getattr__, __dir__ = exported(
    __name__,
    posterior="log_posterior running_log_posterior",
    temperature="LogNormalPrior estimate_temperature fit_temperature top_p_for_coverage",
)
