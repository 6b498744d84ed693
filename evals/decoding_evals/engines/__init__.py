"""Answers that other engines drew, or ours before, as they wrote them down."""
