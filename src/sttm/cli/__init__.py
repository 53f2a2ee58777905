"""The command line: ``sttm demo``, ``ask``, ``show``, ``methods`` and ``models``; a file each."""

from sttm.cli.app import app, main

__all__ = ["app", "main"]
