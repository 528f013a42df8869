"""A run in a work directory: train, log, checkpoint, resume, evaluate, restore."""
