"""Evaluations of decoding settings and models; each folder is one, and a command."""
