"""What runs beside the data.  Imports ``folkmoot`` and the ``site`` extra only."""
