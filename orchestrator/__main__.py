"""Runs the scheduler loops in a process of their own."""
