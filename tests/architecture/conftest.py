"""Architecture tests run Airflow in processes of their own; this gives those processes their private home."""

import airflow_env  # noqa: F401
