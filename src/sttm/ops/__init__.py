"""Tensor operations of the merge; nothing here knows a model. ``naive`` holds their slow twins."""
