"""Sums over clipped records on an integer grid: what private training of linear models releases."""
