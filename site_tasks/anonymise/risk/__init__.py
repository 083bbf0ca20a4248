"""What can be learnt about a person from a table, before and after anonymisation."""
