"""Thaw's pipeline: the steps of a staged fine-tuning, with no orchestrator anywhere."""

__version__ = "0.1.0"
