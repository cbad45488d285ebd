"""The command line."""

from captioncrafter.cli.main import main

__all__ = ["main"]
