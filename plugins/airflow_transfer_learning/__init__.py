"""Transfer learning as scheduled, recoverable, reviewable Airflow pipelines. Never imports torch."""
