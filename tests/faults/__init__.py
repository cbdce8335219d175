"""Faults that need processes of their own: kills of programs and of servers, in the middle of their work."""
