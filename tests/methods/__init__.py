"""Tests of sttm.methods."""
