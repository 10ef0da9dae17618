"""How a job reaches a worker and how the worker's results reach the database.

Everything here is SQL on a session that the caller commits; no broker, no store, no torch. Two rules hold it
together:

* A worker proves its right to write. The first statement of each of its transactions locks the job's lease row by
  its random token (`lease.guard`); without that row nothing is written. So there are never two writers.
* Locks are taken in one order: the lease row, then the job row.
"""
