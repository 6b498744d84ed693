"""`python -m decoding_evals.doctor` is `decoding doctor`."""

from decoding_evals.shell.entry import enter

enter("decoding_evals.doctor.command:doctor", "decoding_evals.doctor")
