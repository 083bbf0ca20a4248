"""A site's part of a live session: join, then train with the others through XGBoost's communicator."""
