"""What the protocol decides, as values and pure functions.

Nothing here knows SQL, AWS, Airflow, Prometheus, time or chance. What a decision needs arrives as an argument, so each
one can be printed, tested and replayed. Read in this order: `phase`, `task`, `identity`, `answer`, `decide`, `deliver`.
"""
