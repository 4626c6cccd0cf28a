"""People judge pictures: blind comparisons of two systems on a small web page.

Reading order: ``config``, ``systems`` (whose pictures), ``study`` (which are compared, on which
side), ``store`` (one SQLite file), ``results`` (preference with intervals), ``page``, ``app``.
"""
