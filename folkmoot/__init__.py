"""What sites and coordinator speak: params, contract, wire format, exchange, privacy, identity."""

__version__ = "0.1.0"
