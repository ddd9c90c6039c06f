"""Starts and stops the parties of a run, here as local processes."""
