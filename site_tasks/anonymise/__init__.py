"""Anonymisation of a site's table before anything is computed from it."""
