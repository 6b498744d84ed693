"""Passes of a model: head, attention, rows beside each other, what is kept of a text."""
