"""Trees that are made of sums: split plans, leaves, and the way into an ordinary XGBoost model."""
