"""One task, mapped so many times: its runs are the work of Airflow's whole scheduler."""

from __future__ import annotations

import logging
import os

import pendulum
from airflow.sdk import dag, task


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1), is_paused_upon_creation=True)
def mapped() -> None:
    @task(do_xcom_push=False)
    def work(number: int) -> None:
        logging.getLogger(__name__).info("this is number %d", number)

    work.expand(number=list(range(int(os.environ["BENCH_MAPPED"]))))


many = mapped()
