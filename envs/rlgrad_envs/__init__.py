"""Gymnasium environments of metric problems.

The environments will live here. Nothing is registered yet.
"""
