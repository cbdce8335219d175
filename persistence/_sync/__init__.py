# Generated from ../_async/__init__.py by tests/unasync.py: edit that one.
