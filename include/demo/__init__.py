"""The demo: how to run Airflow and an S3 server on one machine, and a story that shows what retraining is worth."""
