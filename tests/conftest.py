"""Fixtures and settings that every test shares."""

import warnings

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _untested_release() -> None:
    """Take the one warning about a new transformers here, whichever test would attach first."""
    from sttm.models.versions import warn_if_untested

    with warnings.catch_warnings(record=True):
        warn_if_untested()
