"""The coordinator's own steps: open a run, close rounds, conclude, track."""
