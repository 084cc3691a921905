"""Transfer learning as recoverable jobs: the learning side, free of Airflow."""
