"""Image classifiers on a folder of pictures: train, evaluate, predict, all composed by config.

Importing this package is cheap on purpose: torch is imported by the commands when they have work to do, not before.
"""

__version__ = "0.1.0"
