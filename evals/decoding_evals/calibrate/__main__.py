"""`python -m decoding_evals.calibrate` is `decoding calibrate`."""

from decoding_evals.calibrate.command import calibrate
from decoding_evals.shell.running import run

run(calibrate, "decoding_evals.calibrate")
