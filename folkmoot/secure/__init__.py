"""Secure aggregation: sums of the sites' contributions, of which nobody sees a single one.

``docs/secure-aggregation.md`` has the protocol, its messages and the proofs.  The modules are pure
functions and small state; who calls them when is the plan's business.
"""
