"""Tests of sttm.ops."""
