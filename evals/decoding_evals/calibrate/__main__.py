"""`python -m decoding_evals.calibrate` is `decoding calibrate`."""

from decoding_evals.shell.entry import enter

enter("decoding_evals.calibrate.command:calibrate", "decoding_evals.calibrate")
