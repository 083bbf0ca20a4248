"""Live sessions: sites that train together over direct connections, watched through the exchange store.

A session is XGBoost's own federated communicator (``model.trees.strategy: xgboost_federated``): a
tracker at the coordinator, one worker per site.  The communicator has neither deadlines nor
identities; both come from here: signed messages (:mod:`~folkmoot.live.messages`), certificates that
they carry (:mod:`~folkmoot.live.certificates`) and processes that end with whoever started them
(:mod:`~folkmoot.live.process`).
"""
