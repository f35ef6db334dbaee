"""Find out what makes pairs of Bayesian networks teach each other better."""

__version__ = "0.5.0"
