"""Evaluation runs: a task, a model, a method at a budget; answers on disk, and reports on them."""
