"""A coordinator and three sites on one machine, as apart as the machine allows."""
