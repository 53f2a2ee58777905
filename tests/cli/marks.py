"""What some tests need."""

import pytest

from sttm.nano.model import weights_path

needs_nano = pytest.mark.skipif(
    not weights_path().is_dir(), reason="the bundled model's weights are not in this checkout"
)
