"""Measuring reduction methods: answers, time and memory; thresholds from a user's own videos.

``needle`` asks about generated scenes, ``speed`` times models of published shapes, ``calibrate``
finds thresholds. Nothing heavy is imported here.
"""
