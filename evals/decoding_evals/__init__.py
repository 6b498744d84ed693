"""Evaluations of decoding settings and models; each is a module with a `main` of its own."""
