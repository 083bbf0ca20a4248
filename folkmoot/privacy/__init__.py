"""Privacy events, accounting, the site's ledger, and the receipts of releases."""
