"""Processes to decide in: the main one, and the source system's."""
