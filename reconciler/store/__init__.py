"""The table of desired state, on PostgreSQL or SQLite.

`daemon.SqlStore` is the `Store` seam: one method, one transaction, and every write a compare-and-swap under a fence.
`shim` is the same table as a scheduler sees it, inside Airflow's own transactions. Both use the tables of `schema` and
the mapping of `rows`; `engine` connects and `migrate` brings a database to the newest schema.
"""
