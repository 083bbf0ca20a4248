"""Statistics of a federation: what is asked, how a record is counted, what an opened sum says.

``questions`` decides from params and contract alone which whole numbers a site adds up and how much
one record adds; ``count`` adds them up over arrays; ``noise`` plans what differential privacy adds;
``answers`` turns opened sums into figures; ``tree`` reads quantiles from a noised tree.
"""
