"""The AWS side: whether it lets us in, how much there may be, and what runs that nobody knows of."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
)

from reconciler.core import identity
from reconciler.core.finding import Finding, error, fine, note, warning
from reconciler.core.parameters import on_fargate
from reconciler.core.size import VCPU, cpu_units
from reconciler.ecs.errors import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import boto3
    from mypy_boto3_ecs import ECSClient

    from reconciler.core.runtask import Profile
    from reconciler.ecs.gateway import Gateway
    from reconciler.store.daemon import SqlStore

__all__ = [
    "Aws",
    "check_clock",
    "check_quota",
    "check_rates",
    "check_role",
    "check_unknown_tasks",
]

FARGATE_VCPUS: Final = {"FARGATE": "L-3032A538", "FARGATE_SPOT": "L-36FBB829"}
"""Service Quotas' codes for the vCPUs that may run at once, in the service `fargate`."""
RUN_TASK_RATES: Final = {True: (20.0, 20), False: (40.0, 100)}
"""Calls per second and at once, on Fargate and elsewhere, of a whole account and region, as AWS publishes them:
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/throttling.html
https://docs.aws.amazon.com/AmazonECS/latest/APIReference/request-throttling.html
"""
SKEW: Final = 60.0
"""Seconds by which clocks may differ. AWS refuses signatures that are five minutes off."""
PATIENCE: Final = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 2})


@dataclass(frozen=True, slots=True)
class Aws:
    """A session, and the ECS that the daemon would talk to."""

    session: boto3.Session
    region: str
    ecs: ECSClient

    @property
    def local(self) -> bool:
        """Whether this is not AWS: then there is no account behind it."""
        host = urlsplit(self.ecs.meta.endpoint_url).hostname or ""
        return not host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws"))

    def client(self, service: str) -> Any:
        return self.session.client(service, region_name=self.region, config=PATIENCE)  # type: ignore[call-overload]  # by name


def check_clock(aws: Aws, cluster: str, now: Callable[[], float]) -> Iterator[Finding]:
    """Credentials and clock, by one call."""
    try:
        answer = aws.ecs.describe_clusters(clusters=[cluster])
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
    except ClientError as failed:
        # Refused, but by ECS: its answer has a date as well.
        headers = failed.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        code = failed.response.get("Error", {}).get("Code", "")
        if not code.startswith("AccessDenied"):
            yield error("AWS credentials", clean(str(failed)), "see [aws_ecs_executor] conn_id, or boto3's chain")
    except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as failed:
        mend = "give the daemon credentials: a role (IRSA, EKS Pod Identity, ECS, EC2) or [aws_ecs_executor] conn_id"
        yield error("AWS credentials", clean(str(failed)), mend)
        return
    except BotoCoreError as failed:
        mend = f"is region_name = {aws.region} right, and has the daemon's network a way to AWS (NAT or VPC endpoints)?"
        yield error("AWS", clean(str(failed)), mend)
        return
    if "date" in headers:
        yield _skew("AWS", parsedate_to_datetime(headers["date"]).timestamp() - now())


def _skew(whose: str, seconds: float) -> Finding:
    if abs(seconds) <= SKEW:
        return fine("clock", f"agrees with {whose}")
    return error("clock", f"{abs(seconds):.0f} s off from {whose}'s", "synchronise it: AWS refuses what is 300 s off")


def check_role(ours: Aws, theirs: Aws, role_arn: str) -> Iterator[Finding]:
    """Whether a queue's role can be assumed, and is another account's. `ours` signs as we are, `theirs` as the role."""
    where = f"[ecs_reconciler] queues, role_arn {role_arn}"
    if theirs.local:
        return
    try:
        theirs.client("sts").get_caller_identity()
    except (BotoCoreError, ClientError) as failed:
        mend = (
            "allow the daemon's role sts:AssumeRole on it, and let its trust policy name the daemon's role; with EKS "
            "Pod Identity both allow sts:TagSession as well"
        )
        yield error(where, f"can not be assumed: {clean(str(failed))}", mend)
        return
    try:
        account = ours.client("sts").get_caller_identity()["Account"]
    except (BotoCoreError, ClientError):
        return  # said of ourselves already
    if account == role_arn.split(":")[4]:
        what = "is of our own account, where AWS counts its calls with all others, and the reconciler counts them apart"
        yield warning(where, what, "unset role_arn and allow the daemon's own role what it needs, or halve launch_rate")
    else:
        yield fine(where, "can be assumed")


def check_rates(aws: Aws, launch_rate: float, launch_burst: int, profile: Profile) -> Iterator[Finding]:
    """Whether we launch faster than AWS lets the whole account, by what Service Quotas shows, or AWS publishes.

    Fargate's launch rates may be adjusted, and have no published codes in Service Quotas: names tell them.
    """
    where, fargate = "[ecs_reconciler] launch_rate", bool(on_fargate(profile.run_task))
    rate, burst = RUN_TASK_RATES[fargate]
    if aws.local:
        return
    if fargate:
        try:
            pages = aws.client("service-quotas").get_paginator("list_service_quotas").paginate(ServiceCode="fargate")
            shown = {str(q["QuotaName"]): float(q["Value"]) for page in pages for q in page["Quotas"]}
        except (BotoCoreError, ClientError) as failed:
            shown = {}
            yield note(where, f"quotas could not be listed (servicequotas:ListServiceQuotas): {clean(str(failed))}")
        rates = {name: value for name, value in shown.items() if "rate" in name.lower().split()}
        for name, value in sorted(rates.items()):
            yield note(where, f"is {launch_rate:g} a second; this account's {name!r} is {value:g}")
        if rates:
            return
    if launch_rate > rate or launch_burst > burst:
        what = f"{launch_rate:g} calls a second and {launch_burst} at once, and AWS publishes {rate:g} and {burst}"
        yield warning(where, what, "lower launch_rate and launch_burst, unless AWS Support has raised the account's")
    else:
        yield fine(where, f"{launch_rate:g} calls a second, of the {rate:g} that AWS publishes")


def check_quota(
    aws: Aws, limit: int, profile: Profile, definition: Mapping[str, Any], max_cpu: int | None = None
) -> Iterator[Finding]:
    """Whether the account's vCPUs suffice for `limit` tasks, or for `max_cpu` CPU units if that is less."""
    if aws.local or not on_fargate(profile.run_task):
        return
    cpu = profile.run_task.get("overrides", {}).get("cpu") or definition.get("cpu")
    if not cpu:
        return
    size = cpu_units(str(cpu)) / VCPU
    providers = {s.get("capacityProvider") for s in profile.run_task.get("capacityProviderStrategy", ())} or {"FARGATE"}
    quotas = aws.client("service-quotas")
    for provider in sorted(providers):
        where = f"quota of {provider} vCPUs"
        try:
            answer = quotas.get_service_quota(ServiceCode="fargate", QuotaCode=FARGATE_VCPUS[provider])
        except (BotoCoreError, ClientError) as failed:
            yield note(where, f"could not be read (servicequotas:GetServiceQuota): {clean(str(failed))}")
            continue
        allowed = float(answer["Quota"]["Value"])
        what = f"{allowed:g}, and {limit} tasks of {size:g} vCPU need {limit * size:g}"
        needed = limit * size
        if max_cpu is not None and max_cpu / VCPU < needed:
            needed = max_cpu / VCPU
            what += f", but max_running_vcpus keeps them to {needed:g}"
        if allowed >= needed:
            yield fine(where, what)
        else:
            mend = f"raise it in Service Quotas, or set [ecs_reconciler] max_running_vcpus to {allowed:g}"
            yield warning(where, what, mend)


def check_unknown_tasks(gateway: Gateway, store: SqlStore, profile: Profile, deployment: str) -> Iterable[Finding]:
    """Live ECS tasks with this deployment's name that the table does not know. First ECS is listed, then it is read."""
    tasks = gateway.list_tasks(profile.cluster, profile.family, stopped=False)
    ours = {launched: t for t in tasks if (launched := identity.parse_started_by(t.started_by, deployment))}
    rows = {w.exec_id: w for w in store.find({exec_id for exec_id, _ in ours}).workloads}
    unknown = [t.arn for (exec_id, _), t in ours.items() if exec_id not in rows or rows[exec_id].terminal]
    if not unknown:
        return [fine("ECS tasks", f"{len(ours)} live ones of {deployment!r}, and the table knows them all")]
    what = f"{len(unknown)} live ones of {deployment!r} that the table does not know, such as {min(unknown)}"
    mend = (
        "the daemon stops them after [ecs_reconciler] orphan_grace; if another Airflow started them, it has the same "
        "[ecs_reconciler] deployment, which must not be"
    )
    return [warning("ECS tasks", what, mend)]
