"""What stages are made of; nothing here knows a stage, a store or Airflow."""
