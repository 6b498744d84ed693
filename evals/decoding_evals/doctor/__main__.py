"""`python -m decoding_evals.doctor` is `decoding doctor`."""

from decoding_evals.doctor.command import doctor
from decoding_evals.shell.running import run

run(doctor, "decoding_evals.doctor")
