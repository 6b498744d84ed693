"""Whether answers are right, mean the same, and are worth keeping."""
