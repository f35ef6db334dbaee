"""Records to tables, figures, answer and report."""

import os

#: Pictures are files: the backend that a notebook hands on to its commands may be one that matplotlib does not know.
os.environ["MPLBACKEND"] = "agg"
