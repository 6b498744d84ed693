"""The evaluations at the shell; importing a command does not import torch."""
