"""Profiles, tables as declarations, and the launching of their runs on Ray."""
