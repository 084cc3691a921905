"""What the README shows is true."""

from airflow_env import REPOSITORY


def test_its_dag_is_25_lines_and_runs_through_every_operator():
    code = (REPOSITORY / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    names = {}

    exec(code, names)

    assert len(code.splitlines()) <= 25
    assert [task.task_id for task in names["plan"].operator.dag.topological_sort()] == [
        "plan",
        "pull",
        "fine_tune",
        "evaluate",
        "promote",
    ]
