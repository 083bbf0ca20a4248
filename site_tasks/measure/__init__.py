"""A site's part in a run of statistics: sums, overlaps, shares for computing sites."""
