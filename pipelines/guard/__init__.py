"""The coordinator's guard: what a site may ask for, and nothing else.

A site holds its own key and nothing of the coordinator's.  The guard stands before Airflow's API
(``asgi``), knows the sites' keys (``sites``), lets through the requests that a worker makes
(``routes``), and holds each to what belongs to that site (``checks``).  The exchange store is served
to sites by ``exchange``; ``join`` takes a new site's key against a one-time invitation.

Plain ASGI: what it must know of Airflow's tasks it asks a :class:`~pipelines.guard.request.Jobs`.
"""
