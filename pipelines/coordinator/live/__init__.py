"""The coordinator's side of live sessions: XGBoost's tracker, and who watches over it."""
