"""Tests of the hook layer: tiny random video LLMs, an oracle by hand, and what must hold."""
