"""How nano was trained: see training/README.md."""
