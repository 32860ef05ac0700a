"""The version of skvade, also that of the models it fits."""

__all__ = ["__version__"]
__version__ = "0.1.0"
