"""Hosts walk a plan and call ``execute`` for every step; they differ only in who schedules."""
