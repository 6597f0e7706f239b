"""The composition root: builds the parts from the settings and hands each what it needs."""
