# Generated from ../_async/cluster/__init__.py by tests/unasync.py: edit that one.
