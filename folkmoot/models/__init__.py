"""Global models as the libraries' own models: scikit-learn estimators, XGBoost boosters."""
